package main

import "context"

// lifecycle measures the verbs of a container's life, one at a time.
func lifecycle(ctx context.Context, b *bench) error {
	short, err := b.bundle("short", "/bin/true")
	if err != nil {
		return err
	}
	long, err := b.bundle("long", "/bin/sleep", "1000")
	if err != nil {
		return err
	}
	b.buildTemplates(ctx, short)
	return b.inTurns(ctx, b.rounds, func(ctx context.Context, r *runtime) error {
		for _, step := range []struct {
			name string
			args []string
		}{
			{"run /bin/true", []string{"run", "--bundle", short, "short"}},
			{"create", []string{"create", "--bundle", long, "long"}},
			{"start", []string{"start", "long"}},
			{"exec /bin/true", []string{"exec", "long", "/bin/true"}},
			{"state", []string{"state", "long"}},
			{"delete --force", []string{"delete", "--force", "long"}},
		} {
			done, err := r.command(ctx, step.args...)
			if err != nil {
				_ = r.remove(ctx, "long") // it may not be there
				return err
			}
			b.add(step.name, "ms", r.name, ms(done.took))
		}
		return nil
	})
}
