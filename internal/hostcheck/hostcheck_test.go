package hostcheck

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fake makes a host of files.
func fake(t *testing.T, files map[string]string) host {
	t.Helper()
	h := host{root: t.TempDir()}
	for name, data := range files {
		p := h.path(name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func TestOpen(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  string // in the error; empty for none
	}{
		{"missing", nil, "/dev/kvm is missing"},
		{"pvm", map[string]string{"dev/kvm": "", "sys/module/kvm_pvm/refcnt": "0"}, "kvm_pvm"},
		{"there", map[string]string{"dev/kvm": ""}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := fake(t, tc.files).open()
			if err == nil {
				f.Close()
			}
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v; want one line with %q", err, tc.want)
			}
		})
	}
	if _, err := fake(t, nil).open(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v; want it to wrap ErrNotExist", err)
	}
}

func TestModule(t *testing.T) {
	for _, tc := range []struct {
		name   string
		files  map[string]string
		status Status
		want   string
	}{
		{"amd", map[string]string{"sys/module/kvm_amd/parameters/npt": "Y\n"}, OK, "kvm_amd"},
		{"intel", map[string]string{"sys/module/kvm_intel/parameters/ept": "1\n"}, OK, "kvm_intel"},
		{"intel without EPT", map[string]string{"sys/module/kvm_intel/parameters/ept": "N\n"}, Warn, "nested paging"},
		{"pvm", map[string]string{"sys/module/kvm_pvm/refcnt": "0"}, Fail, "kvm_pvm"},
		{"none", nil, Warn, "neither"},
	} {
		r := fake(t, tc.files).module()
		if r.Status != tc.status || !strings.Contains(r.Detail, tc.want) || (r.Advice == "") != (r.Status == OK) {
			t.Errorf("%s: %+v; want %s with %q", tc.name, r, tc.status, tc.want)
		}
	}
}

func TestRelease(t *testing.T) {
	for release, want := range map[string]Status{
		"4.19.0-9-amd64": Fail, "5.4.0": Fail, "5.9.1": Warn, "5.10.0-28-amd64": OK, "6.12.9+deb13-amd64": OK, "10.0": OK, "strange": Warn,
	} {
		if r := checkRelease(release); r.Status != want {
			t.Errorf("%s: %+v; want %s", release, r, want)
		}
	}
}

// TestCageLayers: each is reported, and only the filter is vital.
func TestCageLayers(t *testing.T) {
	seen := 0
	for _, r := range cageLayers() {
		seen++
		switch {
		case !strings.HasPrefix(r.Name, "cage: ") || r.Detail == "":
			t.Errorf("%+v", r)
		case r.Status == Fail && r.Name != "cage: seccomp":
			t.Errorf("%+v: one can do without it", r)
		case r.Status != OK && r.Advice == "":
			t.Errorf("%+v: no advice", r)
		}
	}
	if seen != 4 {
		t.Errorf("%d layers", seen)
	}
}

func TestLinuxChecks(t *testing.T) {
	all := map[string]string{
		"proc/sys/vm/overcommit_memory":     "0\n",
		"proc/sys/user/max_user_namespaces": "1000\n",
	}
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		all["proc/self/ns/"+ns] = ""
	}
	good := fake(t, all)
	for _, r := range []Result{good.namespaces(), good.overcommit()} {
		if r.Status != OK {
			t.Errorf("%+v", r)
		}
	}
	bad := fake(t, map[string]string{"proc/sys/vm/overcommit_memory": "2\n"})
	for want, r := range map[Status][]Result{
		Fail: {bad.namespaces(), bad.cgroup()},
		Warn: {bad.overcommit()},
	} {
		for _, r := range r {
			if r.Status != want || r.Advice == "" {
				t.Errorf("%+v; want %s", r, want)
			}
		}
	}
	all["proc/sys/user/max_user_namespaces"] = "0\n"
	if r := fake(t, all).namespaces(); r.Status != Warn {
		t.Errorf("%+v", r)
	}
	if r := (host{root: t.TempDir()}).capabilities(); r.Status != Fail {
		t.Errorf("%+v", r)
	}
	if r := fake(t, map[string]string{"dev/kvm": ""}).capabilities(); r.Status != Fail || r.Advice == "" {
		t.Errorf("a file as /dev/kvm: %+v", r)
	}
	if r := fake(t, map[string]string{"dev/kvm": ""}).guest(t.Context()); r.Status != Fail {
		t.Errorf("a file as /dev/kvm: %+v", r)
	}
}

// TestRun examines the host the test runs on. Whatever that is, it comes to an
// end, and the guest's code is judged as the module is.
func TestRun(t *testing.T) {
	start := time.Now()
	results := Run(t.Context())
	if took := time.Since(start); took > probeTime+2*time.Second {
		t.Errorf("took %v", took)
	}
	byName := map[string]Result{}
	for _, r := range results {
		t.Logf("%-18s %-5s %s: %s", r.Name, r.Status, r.Detail, r.Advice)
		if r.Name == "" || r.Detail == "" || r.Status == Fail && r.Advice == "" {
			t.Errorf("%+v", r)
		}
		byName[r.Name] = r
	}
	if (Usable() == nil) != (byName["kvm device"].Status == OK && byName["kvm module"].Status != Fail) {
		t.Errorf("Usable = %v", Usable())
	}
	if byName["kvm module"].Status == Fail && !Failed(results) {
		t.Error("a failure does not count")
	}
	switch g, ok := byName["guest kernel code"]; {
	case !ok:
		if byName["kvm device"].Status != Fail {
			t.Error("no guest was tried")
		}
	case byName["kvm module"].Status == OK && g.Status != OK, byName["kvm module"].Status == Fail && g.Status == OK:
		t.Errorf("module %+v, guest %+v", byName["kvm module"], g)
	}
}

// TestProbeLimit: a guest that is too slow is stopped.
func TestProbeLimit(t *testing.T) {
	f, err := (host{root: "/"}).openDevice()
	if err != nil {
		if os.Getenv("RUNV_IN_TEST_HOST") != "" {
			t.Fatal(err)
		}
		t.Skipf("no KVM here; runs on the test host: %v", err)
	}
	defer f.Close()
	if took, err := runProbe(t.Context(), f, 0); err == nil || !strings.Contains(err.Error(), "emulates") {
		t.Errorf("the guest was done after %v, error %v", took, err)
	}
}
