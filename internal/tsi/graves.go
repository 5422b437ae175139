package tsi

import (
	"time"

	"golang.org/x/sys/unix"
)

const (
	// graveTime is how long the error of a broken connection can be asked for
	// after its socket is gone.
	graveTime = time.Minute

	maxGraves = 4096
)

// graves are the errors of sockets that are gone, oldest first. An entry whose
// id was taken over or whose error was asked for stays in the queue as a husk.
type graves struct {
	queue  []grave
	errors map[uint32]unix.Errno
}

type grave struct {
	id   uint32
	dies time.Time
}

func (g *graves) add(id uint32, e unix.Errno, now time.Time) {
	for len(g.queue) > 0 && (len(g.queue) >= maxGraves || now.After(g.queue[0].dies)) {
		delete(g.errors, g.queue[0].id)
		g.queue = g.queue[1:]
	}
	if g.errors == nil {
		g.errors = make(map[uint32]unix.Errno)
	}
	g.errors[id] = e
	g.queue = append(g.queue, grave{id, now.Add(graveTime)})
}

func (g *graves) remove(id uint32) { delete(g.errors, id) }

// take has the error of id and forgets it.
func (g *graves) take(id uint32) (unix.Errno, bool) {
	e, ok := g.errors[id]
	delete(g.errors, id)
	return e, ok
}
