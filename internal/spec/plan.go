package spec

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/go-multierror"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Host has the facts about the host that planning depends on.
type Host struct {
	CPUs        int    // online
	MemoryBytes uint64 // physical

	// SystemdCgroup: cgroups are systemd's (the systemd cgroup driver).
	SystemdCgroup bool
}

// Plan is what a validated configuration asks for.
type Plan struct {
	// Spec is the configuration as the guest is to apply it: without what the
	// host does by itself, capabilities and paths in their canonical form.
	Spec *specs.Spec

	Rootfs         string // absolute, on the host
	RootfsReadonly bool
	RootfsPrivate  bool // no mount events from the host reach the root filesystem

	Binds      []Bind      // mounted under Rootfs, in this order
	Namespaces []Namespace // of the VM process on the host, but for the mount namespace
	NetSysctls []Sysctl    // for the network namespace
	Cgroup     Cgroup
	Machine    Machine
	Network    Network
	NoTemplate bool // boot the VM

	Terminal bool

	// IOPriority is the VM process's as of ioprio_set(2): what the guest reads and
	// writes, it does. 0: the caller's.
	IOPriority int

	// Hooks are the host's; those that the guest runs stay in Spec.
	Hooks specs.Hooks

	// DeviceNodes: the container may have device nodes in its file system, as
	// it can have CAP_MKNOD.
	DeviceNodes bool

	// RequireCage: on a host that lacks a layer of the VM process's cage the
	// container does not start.
	RequireCage bool

	// Warnings are about properties that the specification wants reported
	// instead of refused.
	Warnings []string
}

// ReadOnlyShare tells whether the guest can write to none of the host's files.
func (p *Plan) ReadOnlyShare() bool {
	for i := range p.Binds {
		if !p.Binds[i].readOnly() {
			return false
		}
	}
	return p.RootfsReadonly
}

// Namespace is a namespace that the VM process is to be in: a new one, or the
// one at Path.
type Namespace struct {
	Type specs.LinuxNamespaceType
	Path string
}

// Sysctl is a kernel parameter; File is below /proc/sys.
type Sysctl struct {
	File, Value string
}

// Machine is the size of the virtual machine.
type Machine struct {
	VCPUs       int    `json:"vcpus"`
	MemoryBytes uint64 `json:"memoryBytes"` // guest RAM
}

// New validates s, which belongs to the bundle at the absolute path bundle. All
// problems found are in the one error.
func New(s *specs.Spec, bundle string, host Host) (*Plan, error) {
	p := &planner{in: s, bundle: bundle, host: host}
	if s.Linux != nil && s.Linux.Resources != nil {
		own, linux := *s, *s.Linux
		linux.Resources = p.byName(linux.Resources)
		own.Linux, p.in = &linux, &own
	}
	p.plan.Spec = s
	p.version()
	p.platforms()
	p.root()
	p.process("process", s.Process)
	p.hostname()
	p.mounts()
	p.hooks()
	p.linux()
	p.annotations()
	p.sizing()
	if err := p.err(); err != nil {
		return nil, err
	}
	p.plan.Spec = p.guest()
	return &p.plan, nil
}

// planner collects a plan and what stands in its way.
type planner struct {
	in       *specs.Spec
	bundle   string
	host     Host
	plan     Plan
	vcpus    int    // from an annotation, 0: none
	memory   uint64 // from an annotation, 0: none
	problems *multierror.Error
}

// err has the problems found; nil: none.
func (p *planner) err() error {
	if p.problems != nil {
		p.problems.ErrorFormat = oneLine
	}
	return p.problems.ErrorOrNil()
}

// refuse adds a problem: the property's name, and what is wrong with it.
func (p *planner) refuse(property, format string, args ...any) {
	p.problems = multierror.Append(p.problems, fmt.Errorf("%s: %s", property, fmt.Sprintf(format, args...)))
}

func (p *planner) warn(property, format string, args ...any) {
	p.plan.Warnings = append(p.plan.Warnings, property+": "+fmt.Sprintf(format, args...))
}

// maxProblems is how many problems an error shows, maxProblem how many bytes of
// each.
const (
	maxProblems = 16
	maxProblem  = 400
)

// oneLine shows a list of problems on the single line that an error has.
func oneLine(errs []error) string {
	if len(errs) == 1 {
		return oneProblem(errs[0])
	}
	var parts []string
	for i, err := range errs[:min(len(errs), maxProblems)] {
		parts = append(parts, fmt.Sprintf("(%d) %s", i+1, oneProblem(err)))
	}
	if more := len(errs) - len(parts); more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return fmt.Sprintf("%d problems: %s", len(errs), strings.Join(parts, "; "))
}

// oneProblem is an error's text without what would not stay on its line: names
// in a configuration can be anything.
func oneProblem(err error) string {
	text := err.Error()
	if len(text) > maxProblem {
		text = text[:maxProblem] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

func (p *planner) version() {
	v := p.in.Version
	core, _, _ := strings.Cut(v, "-")
	parts := strings.Split(core, ".")
	ok := len(parts) == 3
	for _, part := range parts {
		ok = ok && part != "" && strings.Trim(part, "0123456789") == ""
	}
	switch {
	case v == "":
		p.refuse("ociVersion", "missing")
	case !ok:
		p.refuse("ociVersion", "%q is not a version", v)
	case parts[0] != "1":
		p.refuse("ociVersion", "%s is not supported: this runtime implements %s", v, specs.Version)
	}
}

func (p *planner) platforms() {
	for _, section := range []struct {
		name    string
		present bool
	}{
		{"solaris", p.in.Solaris != nil},
		{"windows", p.in.Windows != nil},
		{"zos", p.in.ZOS != nil},
		{"freebsd", p.in.FreeBSD != nil},
	} {
		if section.present {
			p.refuse(section.name, "not a Linux container")
		}
	}
	if vm := p.in.VM; vm != nil {
		// The kernel and the VMM are the operator's, never the image author's.
		if vm.Hypervisor.Path != "" || len(vm.Hypervisor.Parameters) > 0 {
			p.refuse("vm.hypervisor", "the VMM is part of this runtime and cannot be chosen")
		}
		if vm.Kernel.Path != "" || vm.Kernel.InitRD != "" || len(vm.Kernel.Parameters) > 0 {
			p.refuse("vm.kernel", "a configuration cannot choose the guest kernel; the operator can, with `runv --kernel`")
		}
		if vm.Image.Path != "" || vm.Image.Format != "" {
			p.refuse("vm.image", "the root file system is root.path")
		}
		if hw := vm.HwConfig; hw != nil {
			if hw.DeviceTree != "" || len(hw.DtDevs) > 0 || len(hw.IOMems) > 0 || len(hw.Irqs) > 0 {
				p.refuse("vm.hwConfig", "host hardware is never passed through")
			}
			if hw.VCPUs != nil {
				p.setVCPUs("vm.hwConfig.vcpus", uint64(*hw.VCPUs))
			}
			if hw.Memory != nil {
				p.setMemory("vm.hwConfig.memory", *hw.Memory)
			}
		}
	}
}

func (p *planner) root() {
	r := p.in.Root
	if r == nil {
		p.refuse("root", "missing")
		return
	}
	if r.Path == "" {
		p.refuse("root.path", "missing")
		return
	}
	if hasNUL(r.Path) {
		p.refuse("root.path", "contains a NUL byte")
		return
	}
	path := r.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.bundle, path)
	}
	p.plan.Rootfs = filepath.Clean(path)
	if p.plan.Rootfs == "/" {
		p.refuse("root.path", "is the host's own root directory")
	}
	p.plan.RootfsReadonly = r.Readonly
}

// hostnameMax is __NEW_UTS_LEN of uname(2).
const hostnameMax = 64

func (p *planner) hostname() {
	for _, name := range []struct{ property, value string }{
		{"hostname", p.in.Hostname},
		{"domainname", p.in.Domainname},
	} {
		if len(name.value) > hostnameMax {
			p.refuse(name.property, "longer than %d bytes", hostnameMax)
		}
		if hasNUL(name.value) {
			p.refuse(name.property, "contains a NUL byte")
		}
	}
}

func (p *planner) hooks() {
	h := p.in.Hooks
	if h == nil {
		return
	}
	for _, list := range []struct {
		name  string
		hooks []specs.Hook
	}{
		//lint:ignore SA1019 deprecated, still part of the specification
		{"prestart", h.Prestart},
		{"createRuntime", h.CreateRuntime},
		{"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer},
		{"poststart", h.Poststart},
		{"poststop", h.Poststop},
	} {
		for i, hook := range list.hooks {
			at := fmt.Sprintf("hooks.%s[%d]", list.name, i)
			if !filepath.IsAbs(hook.Path) {
				p.refuse(at+".path", "%q is not an absolute path", hook.Path)
			}
			if slices.ContainsFunc(append(append([]string{hook.Path}, hook.Args...), hook.Env...), hasNUL) {
				p.refuse(at, "contains a NUL byte")
			}
			if hook.Timeout != nil && *hook.Timeout <= 0 {
				p.refuse(at+".timeout", "%d is not above 0", *hook.Timeout)
			}
		}
	}
	p.plan.Hooks = *h
	p.plan.Hooks.StartContainer = nil
}

// guest is the configuration that goes to the guest: what concerns the host
// alone is taken out, so that no host path travels further than it must.
func (p *planner) guest() *specs.Spec {
	g := *p.in
	root := *p.in.Root
	root.Path = "/"
	g.Root = &root
	g.Hooks, g.VM = nil, nil
	if h := p.in.Hooks; h != nil && len(h.StartContainer) > 0 {
		g.Hooks = &specs.Hooks{StartContainer: h.StartContainer}
	}
	g.Mounts = append([]specs.Mount(nil), p.in.Mounts...)
	for i := range g.Mounts {
		if !path.IsAbs(g.Mounts[i].Destination) {
			g.Mounts[i].Destination = "/" + g.Mounts[i].Destination
		}
		if isBind(g.Mounts[i]) {
			g.Mounts[i].Source = ""
			g.Mounts[i].Options = slices.DeleteFunc(slices.Clone(g.Mounts[i].Options), func(option string) bool {
				return isData(option) || isIDMapOption(option)
			})
			g.Mounts[i].UIDMappings, g.Mounts[i].GIDMappings = nil, nil
		}
	}
	linux := specs.Linux{}
	if p.in.Linux != nil {
		linux = *p.in.Linux
	}
	linux.CgroupsPath = ""
	linux.Devices = slices.DeleteFunc(slices.Clone(linux.Devices), func(d specs.LinuxDevice) bool { return !inGuest(d) })
	if r := linux.Resources; r != nil && r.Unified != nil {
		resources := *r
		resources.Unified = guestUnified(r.Unified)
		linux.Resources = &resources
	}
	namespaces := linux.Namespaces
	linux.Namespaces = nil
	for _, ns := range namespaces {
		// Which namespace is joined on the host is nothing to the guest.
		linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: ns.Type})
	}
	g.Linux = &linux
	g.Process = guestProcess(p.in.Process)
	return &g
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }
