// SPDX-License-Identifier: GPL-2.0
/* Calls that wait on the program's socket for what comes from the VMM. */
#include <linux/sched/signal.h>

#include "tsi.h"

/*
 * A turn of a loop that found nothing to do: 0 when it is to look again, else
 * why it is not, -EAGAIN when the time is up.
 */
int tsi_sleep_on(struct sock *sk, struct tsi_sleep *s)
{
	if (!s->timeo)
		return -EAGAIN;
	if (signal_pending(current))
		return sock_intr_errno(s->timeo);
	if (!s->queued) { /* what came before wakes nobody */
		add_wait_queue(sk_sleep(sk), &s->wait);
		s->queued = true;
		return 0;
	}
	s->timeo = wait_woken(&s->wait, TASK_INTERRUPTIBLE, s->timeo);
	return 0;
}

void tsi_sleep_end(struct sock *sk, struct tsi_sleep *s)
{
	if (s->queued)
		remove_wait_queue(sk_sleep(sk), &s->wait);
}
