package vmprocess

import (
	"testing"

	"runv.dev/runv/agent/protocol"
)

func TestRehearsedNetworks(t *testing.T) {
	for name, n := range map[string]*protocol.Network{"bare": bareNetwork(), "bridged": bridgedNetwork()} {
		if err := n.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
