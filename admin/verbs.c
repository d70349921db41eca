/* SPDX-License-Identifier: Apache-2.0 */
/* The table of commands and its small helpers. A verb that is not here does not exist anywhere. */
#include "admin/verbs.h"
#include "fuse/fault.h"
#include <ctype.h>


/* Rows are written in order up to their options; what follows is named. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

const struct verb verb_table[] = {
	{"status", "", 0, 0, VERB_DAEMON, "show this node: membership, lease, disks, mounts, traffic",
	 "The state is \"ready\" when the node is in a quorate view, holds its lease and has opened every configured disk; "
	 "otherwise the state says what is missing.",
	 {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{state:s cluster:s node:i incarnation:i uptime_ms:i view:{number:i quorate:b members:[{node:i incarnation:i addr:s}]} lease_ms:i "
		 "net:* fuse:* disks:[{url:s state:s}] mounts:[{name:s dir:s options:s state:s mounted_on:[i] pending_recovery:[*]}] version:s}"},
	{"fs create", "NAME URL...", 2, 4097, VERB_DAEMON, "make a file system over shared disks",
	 "Every URL must name a disk that all nodes reach (iscsi://host:port/iqn/lun, nvme-tcp://host:port/nqn?ns=1 or file:///path). A disk that carries a "
	 "partition table, another file system, LVM or a Tessera label is refused; --force overwrites foreign contents, never "
	 "a Tessera file system that is mounted anywhere. Reservations are tried: a second identity is registered and preempted, and then must "
	 "be refused. What came of it is in the labels and shown here and by `disk list`: a disk that lets a preempted node write counts as one "
	 "without reservations, and fencing waits for leases there.",
	 {{"block-size", 'b', "SIZE", "data block size, 64K to 16M, power of two (default 1M)", 64u << 10, 16u << 20, true},
	  {"log-slots", 's', "N", "nodes that can mount at once, 1 to 256 (default 8)", 1, 256},
	  {"log-size", 0, "SIZE", "log of one node (default by disk size, 4M to 64M)", 1u << 20, 1u << 30},
	  {"force", 'f', NULL, "overwrite what is on the disks"}},
	 .json = "{name:s disks:i fencing:[{disk:s}]}"},
	{"fs list", "", 0, 0, VERB_DAEMON, "list the file systems on the disks this node sees", "", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{name:s disks:i disks_found:i size_bytes:i mounted_on:[i] pending_recovery:[*] own_cluster:b}]"},
	{"disk list", "", 0, 0, VERB_DAEMON, "list the disks of this node with what is on them",
	 "FENCING says how a node is kept off: preempt-abort or preempt (by its reservation key), or lease (by waiting until its lease is over). "
	 "With --json: what was found out when the file system was made (abilities).",
	 {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{url:s state:s error?:s size_bytes?:i transport?:s reservations?:b label?:s contents?:s io?:*}]"},
	{"mount", "NAME DIRECTORY", 2, 2, VERB_DAEMON, "mount a file system on this node",
	 "Options as in mount(8): ro, nosuid, nodev, noexec, noatime, relatime (default), strictatime, nodiratime; lazytime changes nothing. "
	 "strictatime: every read counts, on every node at once, and none is served by the kernel's page cache. locallocks: fcntl and "
	 "flock locks count on this node only, and closing a file costs less. nonamecache: the kernel keeps no names; "
	 "each is asked for when used, as on kernels before 6.18. `mount -o remount,ro` works as ever, for this node; another "
	 "change needs umount and mount. Waits for the recovery of nodes that crashed.",
	 {{"options", 'o', "LIST", "comma-separated mount options"}},
	 .flags = VERB_ROUTED},
	{"umount", "NAME|DIRECTORY", 1, 1, VERB_DAEMON, "unmount a file system from this node",
	 "Writes everything back, hands tokens over and leaves the log clean. Refused while files are open.",
	 {{"lazy", 'l', NULL, "detach now, finish when the last user is gone"}},
	 .flags = VERB_ROUTED},
	{"fsck", "NAME|URL", 1, 1, VERB_DAEMON, "check a file system that no node has mounted",
	 "Replays the logs of crashed nodes, then cross-checks every inode, directory, block and link count.",
	 {{"no-repair", 'n', NULL, "only report (default)"}, {"yes", 'y', NULL, "repair what is found"}},
	 .json = "{name:s findings:i repaired:i inodes:i dirs:i files:i subs_used:i replayed_logs:b list:[{text:s repaired:b}]}"},
	{"node list", "", 0, 0, VERB_DAEMON, "list the nodes of the cluster and how they are",
	 "STATE is member (its daemon is in the view), dead, to recover (what it held is blocked until its log is replayed), no daemon (corosync sees its "
	 "machine) or away.",
	 {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{node:i state:s incarnation:i addr:s port:i machine_up:b mounted:[s] to_recover:[s] power_switch:b self:b}]"},
	{"node show", "NODE", 1, 1, VERB_DAEMON, "show one node", "",
	 {{"keys", 0, NULL, "ask the disks for its reservation key, too (waits for them)"}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{node:i state:s incarnation:i addr:s port:i machine_up:b mounted:[s] to_recover:[s] power_switch:b self:b keys?:[{disk:s registered:s reserved:b}]}"},
	{"node fence", "NODE", 1, 1, VERB_DAEMON, "put a node out of the cluster",
	 "It is excluded everywhere, its reservation keys are removed and its log is replayed; its daemon ends and may come back as a new life of itself. "
	 "For a node that hangs but renews its lease, or that has to be kept from the disks now. --power switches its machine off, too, by the program "
	 "that `fence_agent = NODE PROGRAM FILE` in tesserad.conf names: a fence agent, which gets the lines of FILE and action=off or action=status on "
	 "stdin.",
	 {{VERB_SURE, 0, NULL, "do not ask"}, {"power", 0, NULL, "switch its machine off as well"}},
	 .confirm = "puts it out of the cluster, and whatever it has not written is lost",
	 .json = "{node:i put_out:b power:s}"},
	{"node confirm-dead", "NODE", 1, 1, VERB_DAEMON, "take your word that a dead node is switched off",
	 "For the day when a dead node cannot be fenced: `diag recovery` stays at the step fence, and what the node held stays blocked. Make sure that its "
	 "machine is switched off or cut off the disks, then say this on any node. Refused while the node is a member, while corosync sees its "
	 "machine, while its lease may last, and when its log on the disks is written meanwhile (it is watched for a lease and its margin). If the "
	 "node still writes after this, the file system is destroyed.",
	 {{VERB_SURE, 0, NULL, "do not ask"}},
	 .confirm = "lets the others work on what it held. If its machine still runs, that destroys the file system",
	 .json = "{node:i incarnations:i confirmed:b}"},
	{"diag waiters", "", 0, 0, VERB_DAEMON, "who waits for what, since when", "", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{who:s waits_for:s object:i detail:i since_ms:i}]"},
	{"diag tokens", "[NAME]", 0, 1, VERB_DAEMON, "tokens held and mastered here, with holders and waiters", "",
	 {{"limit", 0, "N", "at most N rows (default 200)", 1, 10000}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{fs:s role:s kind:s id:i node:i mode:s waiting:b revoking:b pins:i since_ms:i}]"},
	{"diag locks", "[NAME]", 0, 1, VERB_DAEMON, "fcntl and flock locks: who holds, who waits, which node decides",
	 "Rows of role 'holder' are processes of this node, rows of role 'master' what this node decides about for all. An inode used by "
	 "one node is delegated: that node decides itself, and the master has no rows for it.",
	 {{"limit", 0, "N", "at most N rows (default 200)", 1, 10000}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{fs:s role:s id:i node:i pid:i kind:s type:s start:i end:i waiting:b delegated:b master:i since_ms:i}]"},
	{"diag recovery", "[NAME]", 0, 1, VERB_DAEMON, "what the recovery of dead nodes is doing, and did",
	 "The node that recovers (coordinator) shows its step, about which node, since when, how far and what failed last. Steps: ask the other nodes, list the "
	 "dead, fence them, wait for their leases where disks cannot fence, settle (late writes land), seal the log, replay it, verify what was written, adopt "
	 "its intents, close the log, report. A recovery that fails is tried again every second.",
	 {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{fs:s state:s coordinator:i pending:[*] step:s node:i step_ms:i total_ms:i blocks:i blocks_done:i attempts:i last_error?:s steps:[*] past:[*]}]"},
	{"diag log", "[NAME]", 0, 1, VERB_DAEMON, "state of this node's log and write-behind", "", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{name:s slot:i tail_lsn:i head_lsn:i stable_lsn:i used_bytes:i size_bytes:i forces:i dirty_bytes:i}]"},
	{"diag fault", "NAME arm|release|clear|list [POINT]", 2, 3, VERB_DAEMON, "for tests: hold up or break a mount at a named point",
	 "Refused unless the configuration of tesserad says 'fault_points = yes', which no node with real data should. POINT is "
	 "OP.before_pin, OP.before_reply or OP.after_reply, with OP a request of the kernel as counted by 'tessera status', one "
	 "of the points in fuse/fault.c, or recovery.fence, where --times so many fences fail. Whatever is caught there goes on by itself after 5 s at the latest.",
	 {{"ino", 'i', "N", "only for this inode (a request: the one it names first, for names their directory)", 1, INT64_MAX},
	  {"nth", 'n', "N", "from the n-th passage on (default 1)", 1, UINT32_MAX},
	  {"times", 't', "N", "catch at most N passages", 1, UINT32_MAX},
	  {"delay", 'd', "MS", "wait so long", 1, TF_FAULT_MAX_MS},
	  {"hold", 0, "MS", "wait for 'release', at most so long (default without other options: 5000)", 1, TF_FAULT_MAX_MS},
	  {"skip", 0, NULL, "leave out what this point is in front of"}},
	 .json = "*"},
	{"sandbox", "VERB ...", 0, 64, VERB_EXEC, "a whole cluster on this machine, for trying and testing",
	 "Nodes are network namespaces with a corosync and a tesserad each; the disks are LUNs of a real iSCSI target. "
	 "'tessera sandbox --help' lists its verbs.",
	 {{0}}},
	{"help", "[VERB ...]", 0, 2, VERB_LOCAL, "explain a command", "", {{0}}},
	{"man", "[PAGE]", 0, 1, VERB_LOCAL, "print a page of the manual in roff",
	 "PAGE is tessera (the default), tessera-GROUP for verbs of two words, tesserad, tesserad.conf or mount.tessera. `tessera man | man -l -` shows it.",
	 {{"dir", 0, "DIRECTORY", "write all pages into DIRECTORY/man5 and man8 instead"}}},
	{"completion", "bash|zsh", 1, 1, VERB_LOCAL, "print the completion for a shell", "", {{0}}},
	{"schema", "[VERB ...]", 0, 2, VERB_LOCAL, "print the JSON schema of a verb's --json answer, or of all", "", {{0}}},
	{"names", "fs|mount|node|disk", 1, 1, VERB_DAEMON, "print what a completion may offer, one a line", "", {{0}},
	 .flags = VERB_LOOKS,
	 .json = "[s]"},
	{"version", "", 0, 0, VERB_LOCAL, "print the version", "", {{0}},
	 .flags = VERB_LOOKS},
};
const size_t verb_count = TS_ARRAY_LEN(verb_table);

static int words_match(const char *name, int argc, char **argv)
{
	int n = 0;
	while (*name) {
		size_t len = strcspn(name, " ");
		if (n >= argc || strlen(argv[n]) != len || strncmp(name, argv[n], len))
			return 0;
		n++;
		name += len;
		while (*name == ' ')
			name++;
	}
	return n;
}

const struct verb *verb_find(int argc, char **argv, int *used)
{
	for (size_t i = 0; i < verb_count; i++) {
		*used = words_match(verb_table[i].name, argc, argv);
		if (*used)
			return &verb_table[i];
	}
	return NULL;
}

const struct verb *verb_by_name(const char *name)
{
	for (size_t i = 0; i < verb_count; i++)
		if (!strcmp(verb_table[i].name, name))
			return &verb_table[i];
	return NULL;
}

int verb_size_parse(const char *text, uint64_t *out)
{
	static const char units[] = "KMGTP";
	char *end;
	errno = 0;
	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	unsigned shift = 0;
	if (*end) {
		const char *u = strchr(units, toupper((unsigned char)*end));
		if (!u)
			return -EINVAL;
		shift = 10 * (unsigned)(u - units + 1);
		end++;
		if (!strcmp(end, "iB") || !strcmp(end, "B"))
			end += strlen(end);
	}
	if (*end || n == 0 || (shift && n >> (64 - shift)))
		return -EINVAL;
	*out = (uint64_t)n << shift;
	return 0;
}
