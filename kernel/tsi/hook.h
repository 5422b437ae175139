/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _NET_TSI_HOOK_H
#define _NET_TSI_HOOK_H

struct net;
struct socket;

#ifdef CONFIG_TSI
int tsi_adopt(struct net *net, struct socket *sock, int kern);
#else
static inline int tsi_adopt(struct net *net, struct socket *sock, int kern)
{
	return 0;
}
#endif

#endif
