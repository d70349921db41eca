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
	{"health", "", 0, 0, VERB_DAEMON, "what is wrong on this node, since when, what it means and what to do",
	 "The conditions are named and have a severity; the exit status says which is the worst: 0 none or info, 20 a warning, 21 an error, 22 critical. "
	 "`health --node all` asks every node.",
	 {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{node:i state:s worst:s conditions:[{condition:s severity:s object:s detail:s since_ms:i age_ms:i meaning:s todo:s}]}"},
	{"events", "", 0, 0, VERB_DAEMON, "what has happened on this node, newest last",
	 "The newest 1024 are kept while the daemon lives. Programs in the directory that `hooks_dir` names are run on each event, one after the other, "
	 "with its name, severity and object as arguments and TESSERA_EVENT, TESSERA_SEVERITY, TESSERA_OBJECT, TESSERA_TEXT, TESSERA_SEQ, TESSERA_TIME_MS "
	 "and TESSERA_CLUSTER in the environment: regular files of root's that nobody else can write, run without any capability, for 10 s at most.",
	 {{"follow", 'f', NULL, "go on and print events as they come, until interrupted"},
	  {"since", 0, "N", "only those behind number N", 0, INT64_MAX},
	  {"limit", 0, "N", "at most the newest N (default 200)", 1, 1024},
	  {"wait", 0, "MS", "if there are none yet, wait so long for one", 1, 20000},
	  {"hooks", 0, NULL, "how the programs that are run on events fare, instead"}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{last?:i lost?:i events?:[{seq:i time_ms:i event:s severity:s object:s text:s}] directory?:s run?:i failed?:i dropped?:i queued?:i "
		 "last_error?:s}"},
	{"top", "", 0, 0, VERB_LOCAL, "what the nodes are doing now: operations, disks, network, processes",
	 "Rates between two looks; on a terminal again and again. Processes are those of this node that used a mount lately.",
	 {{"interval", 'i', "MS", "between two looks (default 2000)", 100, 3600000}, {"count", 'n', "N", "so many looks, then end", 1, 1000000}},
	 .flags = VERB_ROUTED},
	{"web", "", 0, 0, VERB_DAEMON, "where the page of this node is, or why there is none",
	 "A page for a browser, for looking only: nodes, disks and what goes between them, health, rates, who waits for and holds what, events, made anew every 2 s. "
	 "Every daemon serves it where its metrics are: on the loopback, so use `ssh -L 7421:127.0.0.1:7421 NODE`. Keys `metrics` and `web` change that.",
	 {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{node:i on:b url:s why:s}"},
	{"snap", "[FILE]", 0, 1, VERB_LOCAL, "collect what support needs into a tar file",
	 "Status, health, events, configuration, the newest lines of the log and what `diag` says, of every member that answers, as JSON. No key and no password "
	 "is in it; names of files, paths and addresses are. FILE is tessera-snap.tar if not given, and must not be there.",
	 {{0}}},
	{"preflight", "[ADDRESS...]", 0, 63, VERB_LOCAL, "before a cluster is made or a node joins: do machines, network, disks and settings fit?",
	 "Runs in this command, needs no tesserad and no ssh. On every other node: `tessera preflight --listen`; then on one node: `tessera preflight "
	 "ADDRESS ...` with the addresses of the others. Looked at: versions, names and identities, clocks, UDP and MTU with whole packets, TCP to the port of "
	 "tesserad from every node to every other, the same LUNs everywhere, corosync.conf. On a LUN that carries nothing, and has no registration, "
	 "reservations are tried as `fs create` does (its 4 KiB at 800 KiB are written with what is there); others are only read. Nodes talk on the port of "
	 "tesserad plus 2 (TCP and UDP), under the cluster key. The exit status says which is the worst row: 0 ok, 20 warn, 21 fail.",
	 {{"listen", 'l', NULL, "answer others, and show nothing"},
	  {"seconds", 0, "N", "with --listen: so long (default 600)", 1, 86400},
	  {"no-probe", 0, NULL, "do not try reservations"},
	  {"config", 'c', "FILE", "of tesserad (default TESSERA_CONFIG, else /etc/tessera/tesserad.conf)"},
	  {"corosync", 0, "FILE", "its file (default TESSERA_COROSYNC, else /etc/corosync/corosync.conf)"}},
	 .json = "[{check:s result:s object:s detail:s remedy:s}]"},
	{"fs create", "NAME URL...", 2, 4097, VERB_DAEMON, "make a file system over shared disks",
	 "Every URL must name a disk that all nodes reach (iscsi://host:port/iqn/lun, nvme-tcp://host:port/nqn?ns=1 or file:///path). A disk that carries a "
	 "partition table, another file system, LVM or a Tessera label is refused; --force overwrites foreign contents, never "
	 "a Tessera file system that is mounted anywhere. Reservations are tried: a second identity is registered and preempted, and then must "
	 "be refused. What came of it is in the labels and shown here and by `disk list`: a disk that lets a preempted node write counts as one "
	 "without reservations, and fencing waits for leases there. A disk may be named as POOL=URL: it belongs to that pool then and holds file data only; "
	 "metadata, and files that nobody placed, are in the pool `system`, to which the first disk belongs. See `pool list` and `layout set`.",
	 {{"block-size", 'b', "SIZE", "data block size, 64K to 16M, power of two (default 1M)", 64u << 10, 16u << 20, true},
	  {"log-slots", 's', "N", "nodes that can mount at once, 1 to 256 (default 8)", 1, 256},
	  {"log-size", 0, "SIZE", "log of one node (default by disk size, 4M to 64M)", 1u << 20, 1u << 30},
	  {"metadata-disks", 'm', "N", "logs and metadata only on the first N disks; the others hold file data and can be drained (default: all)", 1, 4096},
	  {"pool", 'p', "POOL", "pool of the disks behind those with metadata (default: system)"},
	  {"force", 'f', NULL, "overwrite what is on the disks"}},
	 .json = "{name:s disks:i fencing:[{disk:s}]}"},
	{"fs list", "", 0, 0, VERB_DAEMON, "list the file systems on the disks this node sees", "", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{name:s disks:i disks_found:i size_bytes:i mounted_on:[i] pending_recovery:[*] own_cluster:b}]"},
	{"fs show", "NAME", 1, 1, VERB_DAEMON, "show one file system: disks, mounts, space", "", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{name:s disks:i disks_found:i size_bytes:i mounted_on:[i] pending_recovery:[*] own_cluster:b disk_list:[*] default_options?:s mounted_at?:s options?:s "
		 "block_size?:i space?:*}"},
	{"fs set", "NAME KEY VALUE", 3, 3, VERB_DAEMON, "change a setting of a file system, for all nodes",
	 "KEY is mount_options: what every mount of it begins with, on every node, from its next mount on, such as `ro` or `noatime,nosuid`; options given to "
	 "mount win (rw, relatime, suid, ...). VALUE `none` takes them away. They are in the label of the first disk. It may be mounted meanwhile: mounts that "
	 "are there stay as they are. Name, block size, number and size of the logs are fixed when a file system is made.",
	 {{0}},
	 .json = "{name:s key:s value:s in_force:s}"},
	{"fs changes", "NAME", 1, 1, VERB_LOCAL, "list what has changed since a time, for a backup",
	 "Paths below the mount on this node, one a line, of everything whose inode has changed since (ctime: data, attributes, names of a directory), by a walk over "
	 "directories and inodes with several threads. What was removed shows as its directory. A directory that was renamed is listed, what is in it is "
	 "not. TIME is '2026-11-27 10:00', a time ago (90s, 15m, 12h, 3d), or @SECONDS. With --since-file the time is that of FILE, everything if there is none; "
	 "when the list is complete FILE gets the time when the walk began, less 2 s for clocks that differ: run it again for what comes next. Its status is 1 when "
	 "something could not be read.",
	 {{"since", 0, "TIME", "changed at this time or later"},
	  {"since-file", 0, "FILE", "changed since FILE, and move its time on"},
	  {"null", '0', NULL, "end each path with a NUL instead of a line's end"},
	  {"threads", 't', "N", "walk with so many (default 4)", 1, 64}},
	 .json = "{name:s dir:s next_since_ns:i entries:i dirs:i errors:i changed:[{type:s ino:i size:i ctime_ns:i mtime_ns:i path?:s path_hex?:s}]}"},
	{"fs df", "[NAME]", 0, 1, VERB_DAEMON, "space and inodes of the file systems mounted on this node",
	 "As exact as this node can say without waiting for others: what it was told last is shown, with its age.", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{name:s dir:s size_bytes:i used_bytes:i free_bytes:i used_percent:i inodes:i inodes_free:i inodes_used_percent:i age_ms:i}]"},
	{"disk list", "[NAME]", 0, 1, VERB_DAEMON, "list the disks of this node with what is on them, or those of a file system",
	 "With NAME: the disks of that file system (mounted on this node) with their state, and the file data and metadata on them. "
	 "FENCING says how a node is kept off: preempt-abort or preempt (by its reservation key), or lease (by waiting until its lease is over). "
	 "With --json: what was found out when the file system was made (abilities).",
	 {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[*]"},
	{"disk show", "NAME DISK", 2, 2, VERB_DAEMON, "show one disk of a mounted file system", "DISK is its number or URL, as `disk list NAME` shows it.", {{0}}},
	{"disk places", "NAME INODE", 2, 2, VERB_DAEMON, "how many bytes of a file lie on which disk",
	 "INODE as `ls -i` or `stat -c %i` tells it. A small file lies in its inode, on no disk of its own.", {{0}}},
	{"disk add", "NAME URL", 2, 2, VERB_DAEMON, "add a disk to a file system that is mounted here, while it is used",
	 "Every node that has it mounted opens the disk first: by URL, or if its configuration names it. If one cannot, it is named and nothing is "
	 "changed. The disk takes file data, and with --metadata new metadata, too; then it can never be drained. The URL is kept in the file "
	 "system, so that nodes find the disk when they mount; one with a password is not: name the disk in every tesserad.conf then. If this node "
	 "dies meanwhile, say the same again on another. What is there is not moved: see `disk rebalance`.",
	 {{"failure-group", 'g', "N", "disks that fail together have the same number (default: of their own)"},
	  {"pool", 'p', "POOL", "the pool it belongs to; a new name makes a new pool (default: system)"},
	  {"metadata", 'm', NULL, "new metadata may come here, too"},
	  {"force", 'f', NULL, "overwrite what is on the disk"}}},
	{"disk drain", "NAME DISK", 2, 2, VERB_DAEMON, "move everything off a disk, while the file system is used",
	 "Nothing new is put on the disk, and every node that has the file system mounted moves a part of what is there. It goes on whichever "
	 "node dies or comes, also without this command, which only shows how far it is. Then the disk is 'empty' and can be removed. Only a disk "
	 "for data alone can be drained (`fs create --metadata-disks`, `disk add`), and only if the others have room.",
	 {{"cancel", 0, NULL, "the disk takes data again; what was moved stays where it is now"},
	  {"rate", 'r', "SIZE", "each node moves at most so much a second (default: as it comes)"},
	  {"no-wait", 'n', NULL, "only begin"}}},
	{"disk grow", "NAME DISK", 2, 2, VERB_DAEMON, "use the new part of a disk that has become larger, while the file system is used",
	 "Make the LUN larger first, for all nodes. Every node that has the file system mounted asks the disk for its size; if one still sees the old one, it is "
	 "named and nothing is changed. If this node dies meanwhile, say the same again on another. Data that is there stays where it is: see `disk rebalance`.", {{0}},
	 .json = "{name:s number:i size_bytes:i before_bytes:i}"},
	{"disk remove", "NAME DISK", 2, 2, VERB_DAEMON, "take an empty disk out of a file system",
	 "Refused while anything is on it: `disk drain` first. All nodes let the disk go, and its label is erased. Its number is not used again.", {{0}}},
	{"disk rebalance", "NAME", 1, 1, VERB_DAEMON, "spread file data evenly over the disks, while the file system is used",
	 "Every node that has the file system mounted moves blocks of its share of the files from disks that are fuller than the mean to emptier "
	 "ones. It goes on whichever node dies, also without this command, which only shows how far it is.",
	 {{"stop", 0, NULL, "no more"},
	  {"rate", 'r', "SIZE", "each node moves at most so much a second (default: as it comes)"},
	  {"no-wait", 'n', NULL, "only begin"}}},
	{"pool list", "[NAME]", 0, 1, VERB_DAEMON, "list the pools of the file systems mounted on this node, with size, used, free and disks",
	 "The room for file data, as `df` counts it, by pool. A pool that is full gives ENOSPC to its files though others have room: nothing overflows.", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{name:s pool:s disks:i size_bytes:i used_bytes:i free_bytes:i used_percent:i}]"},
	{"pool show", "NAME POOL", 2, 2, VERB_DAEMON, "show one pool of a mounted file system: space, and its disks", "", {{0}},
	 .flags = VERB_LOOKS,
	 .json = "{name:s pool:s disks:i size_bytes:i used_bytes:i free_bytes:i used_percent:i disk_list:[*]}"},
	{"layout get", "PATH", 1, 1, VERB_DAEMON, "where the blocks of a file are and will be, or of what will be made in a directory",
	 "Pool, number of disks that a file is spread over (0: all of the pool), and the bytes on each disk. PATH may also be written NAME:INODE. The same, "
	 "without the bytes, is the attribute tessera.layout (getfattr -n tessera.layout).", {{0}},
	 .flags = VERB_LOOKS,
	 .json = "{name:s inode:i type:s pool:s stripe:i block_size:i elsewhere:b disks:[{number:i url:s pool:s bytes:i}]}"},
	{"layout set", "PATH", 1, 1, VERB_DAEMON, "choose pool and stripe of a file, or of what will be made in a directory",
	 "Files and directories inherit both from their directory when they are made; those that are there already keep theirs. A file that has blocks does not "
	 "change its pool so: see `layout migrate`. A stripe counts for new blocks. It is a wish: when those disks are full the others of the pool are used; the "
	 "pool is not. As root also by setfattr -n tessera.layout -v 'pool=POOL stripe=N'.",
	 {{"pool", 'p', "POOL", "a pool of the file system, see `pool list`"}, {"stripe", 's', "N", "number of disks a file is spread over; 0: all of its pool", 0, 255}},
	 .json = "{name:s inode:i type:s pool:s stripe:i block_size:i elsewhere:b}"},
	{"layout migrate", "PATH", 1, 1, VERB_DAEMON, "move the blocks of a file to another pool, while it is used",
	 "Without --pool: what lies outside of the file's pool is brought home. If it ends early, some blocks are here and some there, `layout get` says so "
	 "(elsewhere), and the same command goes on.",
	 {{"pool", 'p', "POOL", "a pool of the file system (default: the file's own)"}},
	 .json = "{name:s inode:i pool:s moved_bytes:i}"},
	{"mount", "NAME DIRECTORY", 2, 2, VERB_DAEMON, "mount a file system on this node",
	 "Options as in mount(8): ro, nosuid, nodev, noexec, noatime, relatime (default), strictatime, nodiratime; lazytime changes nothing. "
	 "Those that `fs set` has given to the file system come first. strictatime: every read counts, on every node at once, and none is served by the kernel's page cache. locallocks: fcntl and "
	 "flock locks count on this node only, and closing a file costs less. nonamecache: the kernel keeps no names; "
	 "each is asked for when used, as on kernels before 6.18. `mount -o remount,ro` works as ever, for this node; another "
	 "change needs umount and mount. Waits for the recovery of nodes that crashed.",
	 {{"options", 'o', "LIST", "comma-separated mount options"},
	  {"wait", 'w', "SECONDS", "if this node is not ready yet (quorum, lease, disks), wait for it so long (mount(8) and fstab: option wait=, default 75)", 1, 86400},
	  {"again", 0, NULL, "be content if it is mounted there already"}},
	 .flags = VERB_ROUTED},
	{"umount", "NAME|DIRECTORY", 1, 1, VERB_DAEMON, "unmount a file system from this node",
	 "Writes everything back, hands tokens over and leaves the log clean. Refused while files are open.",
	 {{"lazy", 'l', NULL, "detach now, finish when the last user is gone"}},
	 .flags = VERB_ROUTED},
	{"fsck", "NAME|URL", 1, 1, VERB_DAEMON, "check a file system that no node has mounted",
	 "Replays the logs of crashed nodes, then cross-checks every inode, directory, block and link count.",
	 {{"no-repair", 'n', NULL, "only report (default)"}, {"yes", 'y', NULL, "repair what is found"}},
	 .json = "{name:s findings:i repaired:i inodes:i dirs:i files:i subs_used:i replayed_logs:b list:[{text:s repaired:b}]}"},
	{"salvage", "NAME DIRECTORY", 2, 2, VERB_DAEMON, "mount what is left of a damaged file system, for reading, on this node",
	 "For a file system that has lost disks, or that fsck cannot repair well enough. Nothing is written to any disk: logs are replayed and damage is "
	 "repaired in memory, as `fsck --yes` would. Disks of it that are not open on this node count as lost. The mount is called NAME.salvage; reads of "
	 "what lay on a lost disk fail with EIO. Every file that misses something is listed, up to 10,000. Copy what is whole to another place, then "
	 "`tessera umount DIRECTORY`. No node may have the file system mounted, and none should mount it meanwhile.",
	 {{"lost", 'l', "LIST", "numbers of disks that count as lost though they answer, with commas between"},
	  {"memory", 'm', "SIZE", "what the repairs of one disk may take (default 512M)", 1u << 20, 1ull << 40},
	  {"verify", 'v', NULL, "read every byte of every file, and list what cannot be read"}},
	 .json = "{name:s directory:s lost_disks:[i] findings:i list:[s] files?:i dirs?:i damaged?:i lost_bytes?:i damaged_list?:[{path:s inode:i lost_bytes:i why:s}]}"},
	{"cluster status", "", 0, 0, VERB_DAEMON, "every member as it says itself: state, version, lease, mounts, health",
	 "Members are asked side by side; one that does not answer within 300 ms is shown as such. CLOCK is its clock against this node's.", {{0}},
	 .flags = VERB_LOOKS,
	 .json = "[{node:i state:s version?:s incarnation?:i uptime_ms?:i lease_left_ms?:i time_ms?:i initiator?:s kernel?:s mounts:[s] critical?:i errors?:i "
		 "warnings?:i clock_ms?:i took_ms?:i}]"},
	{"cluster backup", "FILE", 1, 1, VERB_LOCAL, "save what this node needs to be itself again: configuration and keys, no data",
	 "A tar file, mode 0600: tesserad.conf, the cluster key, corosync.conf and its key, files of fence agents, which tiebreaker there is, and a list of disks. "
	 "Needs no daemon. FILE must not be there. One of each node is worth having, anew after a change of configuration or key.",
	 {{"no-keys", 0, NULL, "without keys, files of fence agents and passwords of disks"},
	  {"config", 'c', "FILE", "of tesserad (default TESSERA_CONFIG, else /etc/tessera/tesserad.conf)"},
	  {"corosync", 0, "FILE", "its file (default TESSERA_COROSYNC, else /etc/corosync/corosync.conf)"}},
	 .json = "{format:i cluster:s node:i version:s time:i keys:b files:[{name:s path:s mode:i}] disks:[s]}"},
	{"cluster restore", "FILE", 1, 1, VERB_LOCAL, "put back what `cluster backup` has saved",
	 "On the reinstalled machine, before corosync and tesserad start. The files go where they were. All is judged before anything is written; a file that is "
	 "there and differs is kept, and nothing done, without --force. The number of the last life is only put back where there is none. Restore only what "
	 "you trust: programs named in it are run by root.",
	 {{"force", 'f', NULL, "replace files that are there"}},
	 .json = "{format:i cluster:s node:i version:s time:i keys:b files:[{name:s path:s mode:i}] disks:[s]}"},
	{"cluster key status", "", 0, 0, VERB_DAEMON, "which cluster key this node has, and whether it is being changed",
	 "Keys are named by a hash; the same name is the same key. With --node all: of every member.", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{node:i state:s file:s key:s next?:s old?:s retired?:s}"},
	{"cluster key rotate", "", 0, 0, VERB_DAEMON, "give the cluster a new key while everything runs",
	 "A new key is made here and given to every member, sealed, over the connections that are there; when all accept both, all change to the new one; when all "
	 "have, the old one is dropped and connections under it are made anew. Files are going on being used meanwhile. If it breaks off (a node dies, a key "
	 "file cannot be written) both keys are accepted until somebody says it again, on any member that has the new one. The key is written to each node's "
	 "cluster_key_file; beside it NAME.next, NAME.old, NAME.retired. Refused while a node of corosync's nodelist is away: it would come back with the old key.",
	 {{"without-away", 0, NULL, "go on without nodes that are away; the key file is copied to them by hand before they start"},
	  {"stop-after", 0, "STEP", "for tests (fault_points = yes): break off behind add or switch"}},
	 .flags = VERB_ROUTED,
	 .json = "{key:s state:s nodes:[i] away:[i] file:s}"},
	{"quorum status", "", 0, 0, VERB_DAEMON, "whether this node has quorum, by what, what is missing, and whose lease is how old",
	 "BY is majority, tie (half of the nodes, and the tiebreaker has let them go on) or force (an operator's word).", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{state:s quorate:b by:s view:i daemons:i needed:i votes:i corosync_quorate:b half:b missing:[i] tiebreaker:{url:s version:i usable:b error:s "
		 "last_bid:s} phase:s phase_ms:i may_lose:i leader:i node:i members:[{node:i incarnation:i addr:s self:b renewal_age_ms:i put_out_in_ms:i lease:s}] "
		 "groups:[{fs:s epoch:i members:[i] to_recover:i}]}"},
	{"quorum tiebreaker show", "", 0, 0, VERB_DAEMON, "show the tiebreaker and what is written on it", "", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{url:s version:i state:s error:s slots:[{node:i readable:b incarnation:i promised:i accepted:i behind_view:i writes:i}]}"},
	{"quorum tiebreaker set", "URL", 1, 1, VERB_DAEMON, "choose the disk that decides between two halves of the cluster",
	 "For clusters with an even number of nodes. URL names a disk that all nodes reach: a LUN of its own (1 MiB will do; recommended), or a disk "
	 "of a file system, where a reserved area is used. A LUN of its own must be blank. All nodes should be up: a majority must agree, and each "
	 "node must be able to open it: the answer says which do. Refused where corosync has an arbiter of its own (a quorum device, "
	 "auto_tie_breaker, last_man_standing).",
	 {{"force", 'f', NULL, "overwrite what is on the LUN"}},
	 .json = "{url:s version:i usable_on:[i] not_usable_on:[i]}"},
	{"quorum tiebreaker none", "", 0, 0, VERB_DAEMON, "do without a tiebreaker: half of the nodes then waits for the other", "", {{0}},
	 .json = "{url:s version:i}"},
	{"quorum force", "NODE...", 1, 63, VERB_DAEMON, "go on without a majority, because the missing nodes are dead",
	 "The last resort, when a majority will not come back. Name every node of corosync's nodelist that is missing, after you have made sure that each "
	 "of them is switched off or cut off the disks. Refused while this node has quorum, while corosync sees the machine of a named node, when "
	 "its power switch (fence_agent) does not say that it is off, and when one of their logs is written meanwhile (they are watched for a lease and its "
	 "margin). What they held is fenced and recovered then. If one of them still runs, the file systems are destroyed.",
	 {{VERB_SURE, 0, NULL, "do not ask"}},
	 .confirm = "lets this node work without those that are missing. If one of them still runs, that destroys the file systems",
	 .json = "{vouched_dead:s view:i daemons:i}"},
	{"config list", "", 0, 0, VERB_DAEMON, "every key of the configuration: value in force, unit, limits", "Keys and passwords are not shown.", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{key:s value:s values:[s] unit:s default:s live:b many:b help:s min?:i max?:i}]"},
	{"config get", "KEY", 1, 1, VERB_DAEMON, "one key of the configuration", "", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{key:s value:s values:[s] unit:s default:s live:b many:b help:s min?:i max?:i}"},
	{"config set", "KEY VALUE", 2, 2, VERB_DAEMON, "set one key of this node's configuration",
	 "The line in the file of tesserad is replaced or added, and everything else in it stays. A key that is live is in force at once; of others the answer says "
	 "that they need a restart. Keys with several lines (disk, fence_agent) are edited in the file. With --node: in the files of those nodes.",
	 {{0}},
	 .flags = VERB_ROUTED,
	 .json = "{key:s value:s restart_needed:b file:s}"},
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
	{"node info", "", 0, 0, VERB_DAEMON, "what a node says about itself: version, clock, lease, mounts, health", "", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{node:i state:s version:s incarnation:i uptime_ms:i lease_left_ms:i time_ms:i initiator:s kernel:s mounts:[s] critical:i errors:i warnings:i}"},
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
	{"diag waiters", "", 0, 0, VERB_DAEMON, "who waits for what, since when, because of whom, and what happens next",
	 "Operations of programs first, the longest wait on top: the process, its operation, the inode (`find -inum`), what it waits for, who holds that and for "
	 "how long it was asked for it, and what will end the wait. The master and the holder are asked, within half a second.",
	 {{"plain", 0, NULL, "ask no other node"}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{who:s waits_for:s object:i detail:i since_ms:i fs?:s pid?:i uid?:i ino?:i this_wait_ms?:i because?:s next?:s holders?:[{node:i mode:s asked_ms:i}]}]"},
	{"diag tokens", "[NAME]", 0, 1, VERB_DAEMON, "tokens held and mastered here, with holders and waiters", "",
	 {{"limit", 0, "N", "at most N rows (default 200)", 1, 10000},
	  {"kind", 0, "KIND", "only that kind: inode, data, dir, open, segment, region, ..."},
	  {"id", 0, "N", "only of that inode or number", 0, INT64_MAX},
	  {"waiting", 0, NULL, "only those that somebody waits for"}},
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
	{"diag leases", "", 0, 0, VERB_DAEMON, "this node's lease, the renewals of the others, and what is left of the leases of the dead", "", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{may_write:b suspended:b left_ms:i renewal_age_ms:i lease_ms:i renew_ms:i margin_ms:i members:[{node:i incarnation:i addr:s self:b "
		 "renewal_age_ms:i put_out_in_ms:i lease:s}] dead:[{node:i incarnation:i fs:s lease_left_ms:i}]}"},
	{"diag iohist", "", 0, 0, VERB_DAEMON, "how long disks, log forces, waits for tokens and operations take",
	 "Since the daemon began: number, mean, median, 99th percentile and the longest. Times are upper bounds of powers of two.", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{object:s what:s count:i mean_us:i p50_us:i p99_us:i max_us:i sum_us:i}]"},
	{"diag net", "", 0, 0, VERB_DAEMON, "connections to the other members and what is queued for them", "", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{node:i addr:s port:i connected:b attempts:i unacknowledged:i queued:i connected_ms:i misses:i}]"},
	{"diag counters", "", 0, 0, VERB_DAEMON, "the numbers behind `top`", "", {{0}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "{node:i time_us:i mounts:[{name:s requests:i in_flight:i ops:* users:[{pid:i uid:i ops:i read_bytes:i write_bytes:i busy_us:i}]}] "
		 "disks:[{url:s reads:i writes:i}] net:*}"},
	{"diag messages", "", 0, 0, VERB_DAEMON, "the newest lines of the daemon's log", "", {{"limit", 0, "N", "at most N lines (default 200)", 1, 1024}},
	 .flags = VERB_LOOKS | VERB_ROUTED,
	 .json = "[{time_ms:i level:i text:s}]"},
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
