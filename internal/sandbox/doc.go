// Package sandbox makes the process that becomes a virtual machine, and its
// surroundings on the host: namespaces, cgroup, the composed root file system,
// and the privileges that are left.
//
// The runtime starts itself again as the VM process:
//
//	runtime (create, run)                     VM process (vm)
//	─────────────────────                     ───────────────
//	clone into namespaces and cgroup  ──────▶ waits on the sync socket
//	writes its pid to state.json
//	Bootstrap ──────────────────────────────▶ composes the root file system, opens
//	                                          what it needs, pivots, drops privileges,
//	                                          boots, has the agent create the container
//	          ◀────────────────────────────── created, or failed with a reason
//	state.json: created
//	run only: start ────────────────────────▶ has the agent start the container
//	          ◀────────────────────────────── started, or failed
//	closes the socket
//
// Every message is a JSON object after its length, a 32-bit big-endian number.
// Until the VM process has reported created, the end of the socket tells either
// side that the other one died, and the VM process ends with it. Afterwards the
// VM process belongs to nobody: the runtime may go away, and a later start comes
// through agent.sock.
//
// The VM process is started with these file descriptors and no other:
//
//	0, 1, 2  the container's stdio: as the caller gave them, or a terminal
//	3        the sync socket
//	4        the listening socket agent.sock
//	5        /dev/kvm
//	6        the log, if there is a log file
package sandbox
