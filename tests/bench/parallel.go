package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// parallel measures many containers at once.
func parallel(ctx context.Context, b *bench) error {
	bundle, err := b.bundle("short", "/bin/true")
	if err != nil {
		return err
	}
	b.buildTemplates(ctx, bundle)
	return b.inTurns(ctx, b.rounds, func(ctx context.Context, r *runtime) error {
		start := time.Now()
		each := make([]result, b.together)
		err := atOnce(b.together, b.together, func(i int) (err error) {
			each[i], err = r.command(ctx, "run", "--bundle", bundle, fmt.Sprintf("short-%d", i))
			return err
		})
		took := time.Since(start)
		if err != nil {
			return err
		}
		b.add(fmt.Sprintf("run /bin/true, %d at once", b.together), "containers/s", r.name, float64(b.together)/took.Seconds())
		for _, done := range each {
			b.add(fmt.Sprintf("one of these %d, start to exit", b.together), "ms", r.name, ms(done.took))
		}
		return nil
	})
}

// atOnce calls do with the numbers below n, at most so many at once.
func atOnce(n, most int, do func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	turn := make(chan struct{}, most)
	for i := range n {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			errs[i] = do(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
