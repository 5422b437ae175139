// Package thread runs functions on threads of the operating system that end with
// them.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run calls f on a thread that ends when f returns, and with it all that f did
// to the thread: its namespaces, privileges, directories. It waits for f.
//
// The thread is never the main one. The Go runtime only parks that for good
// when a goroutine ends locked to it, and /proc/PID would show what f did to it
// as the whole process's.
func Run(f func()) { run(f, onMain) }

func onMain() bool { return unix.Gettid() == unix.Getpid() }

func run(f func(), onMain func() bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if onMain() {
			// While this goroutine has the main thread, the next one cannot get it.
			run(f, onMain)
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}
