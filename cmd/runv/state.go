package main

import (
	"encoding/json"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"runv.dev/runv/internal/container"
)

// status is a container as state and list show it: the state of the
// specification, and what other runtimes add to it.
type status struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	PID         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

func statusOf(s *container.State) status {
	oci := s.OCI()
	return status{
		Version:     oci.Version,
		ID:          oci.ID,
		PID:         oci.Pid,
		Status:      oci.Status,
		Bundle:      oci.Bundle,
		Rootfs:      s.Rootfs,
		Created:     s.Created,
		Annotations: oci.Annotations,
		Owner:       "root",
	}
}

func stateCommand(g *globals) *cli.Command {
	return &cli.Command{
		Name:      "state",
		Usage:     "print the state of a container as JSON",
		ArgsUsage: "ID",
		Description: "The status is creating, created, running, paused or stopped; the pid is the VM process's.\n\n" +
			"Example:\n" +
			"   runv state web1",
		Action: func(c *cli.Context) error {
			id, err := oneID(c)
			if err != nil {
				return err
			}
			s, err := g.store().Peek(id)
			if err != nil {
				return err
			}
			return printJSON(statusOf(s))
		},
	}
}

func printJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(data, '\n'))
	return err
}
