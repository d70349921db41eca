/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of `tessera preflight` share. It runs in the command, with or without a tesserad: what a node is, is collected on that node
 * (preflight_facts.c), asked for by another (preflight_net.c), and compared there (preflight.c). */
#ifndef TESSERA_ADMIN_PREFLIGHT_H
#define TESSERA_ADMIN_PREFLIGHT_H

#include "admin/cli.h"
#include "admin/conf.h"

#define PREFLIGHT_PORT_STEP 2 /* beside the daemon's own port */
#define PREFLIGHT_TOKEN	    16
#define PREFLIGHT_UDP_HEAD  28 /* IPv4 and UDP headers */

/* Everything but the time. probe: try reservations on disks that carry nothing. Waits for disks; -ENOMEM: NULL. */
json_t *preflight_facts(const struct conf *c, const char *corosync, bool probe);
int64_t preflight_wall_ms(void);

struct preflight_peer {
	const char *addr;
	json_t *facts; /* NULL: it did not answer */
	char error[256];
	bool other_key;
	int64_t clock_ms, took_ms; /* its clock minus ours; half of took is the doubt */
	char self[48];		   /* our address as seen from there */
	bool udp, udp_full;	   /* a small datagram came back; so did one of udp_bytes */
	unsigned udp_bytes;
};
/* Serves until `seconds` are over or a signal comes; 0 or -errno with a message. quiet: the child of who asks. */
int preflight_listen(const struct conf *c, json_t *facts, unsigned seconds, bool quiet, char *errmsg, size_t errlen) TS_MUST_CHECK;
/* Fills in p; mtu: of our own interface towards it, is found out here. */
void preflight_ask(const struct conf *c, struct preflight_peer *p, json_t *own);
/* Which of the addresses the peer cannot connect to: a list, NULL: it did not answer. */
json_t *preflight_ask_reach(const struct conf *c, const struct preflight_peer *p, json_t *addrs);
/* 0, or -errno: can we connect to that port? */
int preflight_connect(const char *addr, unsigned port, int *fd) TS_MUST_CHECK;
unsigned preflight_mtu_of(const json_t *facts, const char *addr); /* 0: that address is none of its own */

#endif
