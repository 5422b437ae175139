package main

import (
	"fmt"
	"runtime"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/cage"
	"runv.dev/runv/internal/spec"
)

func featuresCommand(*globals) *cli.Command {
	return &cli.Command{
		Name:  "features",
		Usage: "print what is supported, as JSON",
		Description: "The document is the features structure of the OCI runtime specification.\n\n" +
			"Example:\n" +
			"   runv features",
		Action: func(*cli.Context) error { return printJSON(supported()) },
	}
}

func supported() *features.Features {
	yes, no := true, false
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  spec.MountOptions(),
		Linux: &features.Linux{
			Namespaces:      []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"},
			Capabilities:    spec.Capabilities(),
			Cgroup:          &features.Cgroup{V1: &no, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &no},
			Apparmor:        &features.Apparmor{Enabled: &no},
			Selinux:         &features.Selinux{Enabled: &no},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &no},
		},
		Annotations: featureAnnotations(),
	}
}

// featureAnnotations say what the document has no place for: what is around the
// VM process on this host.
func featureAnnotations() map[string]string {
	m := map[string]string{
		"run.oci.runv.version": version,
		"run.oci.runv.commit":  commit,
		"run.oci.runv.arch":    runtime.GOARCH,
	}
	for _, l := range cage.Layers() {
		value := "yes: " + l.Detail
		if l.Err != nil {
			value = "no: " + l.Err.Error()
		}
		m["run.oci.runv.cage."+l.Name] = value
	}
	return m
}

// printVersion is what `runv --version` prints, in the form engines parse.
func printVersion(c *cli.Context) {
	fmt.Fprintf(c.App.Writer, "runv version %s\ncommit: %s\nspec: %s\ngo: %s\n", version, commit, specs.Version, runtime.Version())
}
