/* SPDX-License-Identifier: Apache-2.0 */
/* The on-disk format, version 1. Everything little-endian and packed by construction; every metadata block begins with
 * struct fs_mhdr_disk and is 4 KiB. What is here cannot change without a new format version: docs/format.md explains it.
 *
 * A disk (sizes in 4 KiB sub-blocks, "subs"):
 *   sub 0,1      NSD label, twice                (nsd/nsd.h)
 *   sub 16,17    superblock, twice               (on every disk)
 *   sub 40..41   slot table, 2 blocks            (on every disk; 128 slots a block)
 *   sub 48..113  disk table                      (on every disk; 63 disks a block)
 *   sub 114..120 its first 7 blocks, again       (with FS_FEAT_DISKS)
 *   sub 128..190 where disks are found: URLs     (on disk 0, if it was ever told)
 *   sub 256..    system area: log slots that live on this disk, pieces of the segment table
 *   region_start regions: region r owns the chunk [region_start + r*region_subs, +region_subs) of every disk
 *   chunk sub 0 = bitmap block, sub 1 = auxiliary block (watermarks), then space.
 */
#ifndef TESSERA_FS_FORMAT_H
#define TESSERA_FS_FORMAT_H

#include "lib/lib.h"
#include "nsd/nsd.h"

#define FS_FORMAT_VERSION 1
#define FS_SUB		  4096u
#define FS_MAX_DISKS	  4096
#define FS_MAX_SLOTS	  256
#define FS_MAX_INO	  (1ULL << 48)
#define FS_ROOT_INO	  1
#define FS_SEG_SHIFT	  9
#define FS_SEG_INODES	  (1u << FS_SEG_SHIFT) /* 512 inodes, 2 MiB, contiguous on one disk */
#define FS_NAME_MAX	  255
#define FS_MIN_BLOCK	  (64u << 10)
#define FS_MAX_BLOCK	  (16u << 20)
#define FS_MAX_SIZE	  INT64_MAX
#define FS_LINK_MAX	  0x7fffffffu
/* feat_incompat. New file systems have what is known here; without it the older rules hold. */
#define FS_FEAT_XATTRS	  1ULL /* more than one block of xattrs: values of their own, blocks behind an index */
#define FS_FEAT_DISKS	  2ULL /* disks come and go: states and holes in the disk table, which lies twice */
#define FS_FEAT_POOLS	  4ULL /* disks belong to pools, and inodes have a layout */
#define FS_FEAT_INCOMPAT  (FS_FEAT_XATTRS | FS_FEAT_DISKS | FS_FEAT_POOLS)

#define FS_SUPER_SUB	 16
#define FS_SLOTTAB_SUB	 40
#define FS_DISKTAB_SUB	 48
#define FS_DISKTAB_SUB2	 114
#define FS_DISKURL_SUB	 128
#define FS_SYSTEM_SUB	 256

/* An address: disk in bits 40..51, sub-block in bits 0..39. Bits 52..63 are zero. 0 = none (sub 0 is a label). */
typedef uint64_t fs_addr;
#define FS_ADDR(disk, sub)   (((uint64_t)(disk) << 40) | (uint64_t)(sub))
#define FS_ADDR_DISK(a)	     ((unsigned)(((a) >> 40) & 0xfff))
#define FS_ADDR_SUB(a)	     ((a) & ((1ULL << 40) - 1))

enum fs_block_type {
	FS_BT_SUPER = 1,
	FS_BT_SLOTTAB,
	FS_BT_DISKTAB,
	FS_BT_SEGTAB,
	FS_BT_BITMAP,
	FS_BT_CHUNKAUX,
	FS_BT_INODE,
	FS_BT_INDIRECT, /* block map of a file */
	FS_BT_DIRINDEX,
	FS_BT_DIRLEAF,
	FS_BT_XATTR,
	FS_BT_LOGHEAD,
	FS_BT_XATTRINDEX,
	FS_BT_DISKURL,
	FS_BT_COUNT
};

#define FS_MAGIC 0x41535354u /* "TSSA" */
struct fs_mhdr_disk { /* 64 bytes, at the start of every metadata block */
	le32 magic;
	uint8_t type;	      /* enum fs_block_type */
	uint8_t res_kind;     /* enum tok_kind of the resource that covers the block */
	le16 flags;
	uint8_t fs_id8[8];    /* first 8 bytes of the file system id */
	le64 addr;	      /* own address */
	le64 res_id;	      /* inode, region, ... */
	le32 res_gen;	      /* generation of that inode, else 0 */
	le32 reserved;
	le64 incarnation;     /* of the writer */
	le64 version;	      /* Lamport time of the last change: never goes back for an address */
	le64 csum;	      /* ts_csum64_skip over 4 KiB */
};
_Static_assert(sizeof(struct fs_mhdr_disk) == 64, "metadata header");
#define FS_MHDR_CSUM_OFF offsetof(struct fs_mhdr_disk, csum)

/* ---- superblock ------------------------------------------------------------------------------------------------- */
struct fs_segtab_ext_disk {
	le64 addr[3];	 /* copies */
	le64 first_block; /* index of the first table block in this extent */
	le64 nblocks;
};
#define FS_SEGTAB_EXTENTS 32
/* Pools: disks that are used alike. Number 0 is "system": metadata, and data; it has no entry (zeros). The others are for data alone. A name, once
 * given, stays: inodes have the number. Zeros: no pool has it. */
#define FS_POOLS	  8u
#define FS_POOL_NAME	  32u /* bytes, with the zero behind */
struct fs_pool_ent_disk {
	char name[FS_POOL_NAME];
};
struct fs_super_disk {
	struct fs_mhdr_disk h;
	uint8_t fs_id[16];
	uint8_t cluster_id[16];
	char name[64];
	le32 format_version;
	le32 block_size;	/* bytes, power of two */
	le64 feat_compat, feat_ro_compat, feat_incompat;
	le64 create_time_ns;
	uint8_t hash_key[16];	/* SipHash key of directory names */
	le32 ndisks;
	le32 nslots;
	le32 log_subs;		/* of one slot, header blocks included */
	le32 region_subs;	/* of one chunk; multiple of block_size; at most FS_BITMAP_BITS */
	le32 nregions;
	uint8_t meta_copies, data_copies, reserved0[2];
	le64 nsegments;		/* room in the segment table */
	le32 nsegtab_ext;
	le32 reserved1;
	struct fs_segtab_ext_disk segtab[FS_SEGTAB_EXTENTS];
	uint8_t move;		/* FS_MOVE_*: what the nodes that have it mounted do beside their work */
	uint8_t reserved2[3];
	le32 move_mib_s;	/* each node moves at most so much a second; 0: as it comes */
	struct fs_pool_ent_disk pool[FS_POOLS];
	uint8_t reserved[4096 - 64 - 16 - 16 - 64 - 8 - 24 - 8 - 16 - 12 - 8 - 4 - 8 - 8 - FS_SEGTAB_EXTENTS * 40 - 8 - FS_POOLS * FS_POOL_NAME];
};
enum { FS_MOVE_REBALANCE = 1 };
_Static_assert(sizeof(struct fs_super_disk) == FS_SUB, "superblock size");

/* What disk 0 says counts: the superblock's ndisks is how many numbers were ever given, the table says which of them are disks. A change
 * is there when disk 0 has it; the copies on the others follow. h.res_gen of the superblock and of a block of the table, and again
 * in h.reserved: how often it was changed. */
enum fs_disk_state {
	FS_DISK_READY = 0, /* with a uuid of zeros: no disk has this number */
	FS_DISK_JOINING,   /* every node opens it, nobody puts anything on it */
	FS_DISK_DRAINING,  /* nothing new is put on it, what is there is moved away */
	FS_DISK_EMPTY,	   /* nothing is on it */
	FS_DISK_GONE,	   /* removed; the number is not given again */
	FS_DISK_STATES
};
enum fs_disk_usage { FS_DISK_ANY = 0, FS_DISK_META = 1, FS_DISK_DATA = 2, FS_DISK_NEITHER = 3 };
struct fs_disk_ent_disk { /* 64 bytes */
	uint8_t uuid[16];
	le64 size_subs;
	le64 region_start; /* sub */
	le32 nchunks;	   /* regions that have a chunk here */
	le16 failure_group;
	uint8_t usage, state;
	uint8_t pool, reserved0[3];
	le32 grow_from; /* not 0: it grows, every node learns of the chunks from here on, and nobody uses them yet */
	le64 reserved[2];
};
#define FS_DISKS_PER_BLOCK 63
#define FS_DISKTAB_TWICE   7u  /* blocks of the table that lie twice */
#define FS_DISKS_ONLINE	   (FS_DISKTAB_TWICE * FS_DISKS_PER_BLOCK) /* only disks with smaller numbers can be added or changed */
struct fs_disktab_disk {
	struct fs_mhdr_disk h;
	struct fs_disk_ent_disk d[FS_DISKS_PER_BLOCK];
};
_Static_assert(sizeof(struct fs_disktab_disk) == FS_SUB, "disk table size");

/* How whoever added a disk reached it: a hint for nodes whose configuration does not name it. Never with a password. */
#define FS_DISKURL_BYTES     576u
#define FS_DISKURL_PER_BLOCK 7u
struct fs_diskurl_disk {
	struct fs_mhdr_disk h; /* res TOK_FS, id = block */
	char url[FS_DISKURL_PER_BLOCK][FS_DISKURL_BYTES]; /* "": not told */
};
_Static_assert(sizeof(struct fs_diskurl_disk) == FS_SUB, "disk url block size");
_Static_assert(FS_DISKURL_SUB + (FS_DISKS_ONLINE + FS_DISKURL_PER_BLOCK - 1) / FS_DISKURL_PER_BLOCK <= NSD_TIE_OFF / FS_SUB, "disk urls fit in front of the tiebreaker");

struct fs_slot_ent_disk { /* where a log slot lies; 24 bytes */
	le64 addr[3];
};
#define FS_SLOTS_PER_BLOCK 128
struct fs_slottab_disk {
	struct fs_mhdr_disk h;
	struct fs_slot_ent_disk s[FS_SLOTS_PER_BLOCK];
	uint8_t reserved[FS_SUB - 64 - FS_SLOTS_PER_BLOCK * 24];
};
_Static_assert(sizeof(struct fs_slottab_disk) == FS_SUB, "slot table size");

/* ---- segment table: where each run of 512 inodes lies ------------------------------------------------------------ */
struct fs_seg_ent_disk { /* 32 bytes; addr[0] == 0: segment not made yet */
	le64 addr[3];
	le32 flags;
	le32 used_hint;
};
#define FS_SEGS_PER_BLOCK 126
struct fs_segtab_disk {
	struct fs_mhdr_disk h; /* res TOK_SEGTAB, id = block index */
	struct fs_seg_ent_disk s[FS_SEGS_PER_BLOCK];
};
_Static_assert(sizeof(struct fs_segtab_disk) == FS_SUB, "segment table size");

/* ---- regions ---------------------------------------------------------------------------------------------------- */
enum fs_region_type { FS_REGION_FREE = 0, FS_REGION_META = 1, FS_REGION_DATA = 2 };
#define FS_BITMAP_BITS 28672u /* 3,584 bytes: 7 x 4096, so that 16 MiB blocks fit */
#define FS_CHUNK_HEAD  2      /* subs of a chunk that are never allocated */
struct fs_bitmap_disk {
	struct fs_mhdr_disk h; /* res TOK_REGION, id = region */
	le32 region;
	le16 disk;
	uint8_t type;	       /* enum fs_region_type, the same in all chunks of a region */
	uint8_t reserved0;
	le64 first_sub;
	le32 nsubs;
	le32 free;	       /* zero bits among nsubs */
	le64 retyped_version;  /* Lamport time of the last change of type */
	uint8_t reserved[512 - 64 - 32];
	uint8_t bits[FS_BITMAP_BITS / 8]; /* 1 = in use */
};
_Static_assert(sizeof(struct fs_bitmap_disk) == FS_SUB, "bitmap size");
struct fs_chunkaux_disk {
	struct fs_mhdr_disk h;
	le64 free_seq[FS_MAX_SLOTS]; /* watermark per log slot of shipped frees applied (reserved for shipping) */
	uint8_t reserved[FS_SUB - 64 - FS_MAX_SLOTS * 8];
};
_Static_assert(sizeof(struct fs_chunkaux_disk) == FS_SUB, "chunk aux size");

/* ---- block pointer: 48 bytes ------------------------------------------------------------------------------------ */
enum { FS_BP_UNWRITTEN = 1, FS_BP_INDEX = 2 /* directory tree: points to an FS_BT_DIRINDEX, else to a leaf; xattrs: to an FS_BT_XATTRINDEX */ };
struct fs_bptr_disk {
	le64 addr[3];	/* copies; addr[0] == 0: hole */
	le64 birth;	/* Lamport time of the allocation */
	le64 csum;
	le16 subs;	/* sub-blocks allocated, at most block size; data: from the start of the block */
	uint8_t comp;	/* 0 = none */
	uint8_t csum_type; /* 0 = none */
	uint8_t flags;
	uint8_t reserved[3];
};
_Static_assert(sizeof(struct fs_bptr_disk) == 48, "block pointer size");

/* ---- inode: a 3,901-byte file fits ------------------------------------------------------------------------------- */
#define FS_INODE_PAYLOAD 3901
enum fs_payload { /* what the payload holds in front of the inline xattrs */
	FS_PL_NONE = 0,
	FS_PL_INLINE,	/* file bytes or symlink target, inline_len of them */
	FS_PL_MAP,	/* fs_bptr_disk[FS_INODE_PTRS]: radix tree of height map_height (0 = pointers to data blocks) */
	FS_PL_DIRINLINE, /* directory entries, inline_len bytes of them */
	FS_PL_DIRTREE,	/* fs_bptr_disk[64]: hash trie, 6 bits a level */
	FS_PL_DEVICE,	/* le64 rdev */
	FS_PL_TARGET,	/* a symlink target of more than FS_TARGET_INLINE bytes: so many of them; the rest is FS_XATTR_TARGET */
};
enum { FS_IF_ORPHAN = 1, FS_IF_XATTR_BLOCK = 2 /* last 48 payload bytes point to an FS_BT_XATTR block */, FS_IF_IMMUTABLE = 4,
       FS_IF_APPEND = 8, FS_IF_NODUMP = 16, FS_IF_DEAD = 32 /* removed directory */, FS_IF_PROJINHERIT = 64,
       FS_IF_TMPFILE = 128 /* orphan that never had a name and may be given one */, FS_IF_NOATIME = 256 };
struct fs_inode_disk {
	struct fs_mhdr_disk h; /* res TOK_INODE, id = inode number, res_gen = generation; type FS_BT_INODE */
	le16 mode;	       /* 0 = free inode */
	le32 flags;
	le32 nlink;
	le32 uid, gid, project;
	le64 size;	       /* directories: number of entries */
	le64 subs;	       /* sub-blocks allocated, indirect and directory blocks included */
	le64 atime_ns, mtime_ns, ctime_ns, btime_ns; /* signed */
	uint8_t map_height;
	uint8_t payload_type;
	le16 inline_len;
	le16 xattr_len;	       /* inline xattrs: the last xattr_len bytes of the payload (before the xattr pointer, if any) */
	le32 trunc_epoch;
	uint8_t pool, copies;  /* pool: where the data blocks of a file are; directories: of what is made in them. Others: 0 */
	le64 parent;	       /* directories: ".." */
	uint8_t stripe;	       /* disks a file is spread over, or what is made in a directory; 0: all of the pool */
	uint8_t place_flags;   /* FS_PF_*; files only */
	uint8_t reserved[39];
	uint8_t payload[FS_INODE_PAYLOAD];
} __attribute__((packed));
enum { FS_PF_ELSEWHERE = 1 /* some blocks may still lie outside of the pool */ };
_Static_assert(sizeof(struct fs_inode_disk) == FS_SUB, "inode size");
_Static_assert(offsetof(struct fs_inode_disk, payload) == 195, "3,901 bytes must fit");
#define FS_INODE_PTRS 64 /* pointers in the inode; leaves 829 bytes for inline xattrs */
_Static_assert(FS_INODE_PTRS * 48 + 48 <= FS_INODE_PAYLOAD, "root pointers and xattr pointer fit");
/* Inline xattrs never exceed this, and inline contents never use the last 48 bytes before them, whatever the payload is:
 * so that it can always become a tree of pointers and an xattr block can always be added. */
#define FS_XATTR_INLINE_MAX (FS_INODE_PAYLOAD - FS_INODE_PTRS * 48 - 48)

/* A symlink target: in the payload, with room for the place of an xattr block; the rest of a longer one is an attribute in that
 * block, which no user sees. */
#define FS_TARGET_MAX	 4095u
#define FS_TARGET_INLINE (FS_INODE_PAYLOAD - 48)
#define FS_XATTR_TARGET	 "system.tessera.target"

struct fs_indirect_disk { /* 84 pointers; level 1 points to data */
	struct fs_mhdr_disk h; /* res TOK_INODE */
	struct fs_bptr_disk p[84];
};
_Static_assert(sizeof(struct fs_indirect_disk) == FS_SUB, "indirect size");

/* ---- directories ------------------------------------------------------------------------------------------------
 * Entry order in a leaf is free. cookie (63 bits) = (hash >> 9) << 8 | coll, plus 2^8 so that 0,1,2 never name an entry;
 * coll is stable for the life of the entry and unique among entries with equal hash >> 9. A hash whose upper 55 bits are
 * all ones is taken less 2^9, so that cookies stay below 2^63.
 * Records are packed without gaps; one with ino == 0 (name_len 0) is free room, and rec_len may exceed what the name needs.
 * Tree: the root (in the inode) uses hash bits 63..58, each index node the next 6, down to FS_DIR_MAX_DEPTH. A leaf of depth d under
 * a node that starts at bit n (n <= d <= n + 6) fills 2^(n + 6 - d) neighbouring, aligned slots. A zero pointer = no entries there. */
#define FS_DIR_MAX_DEPTH 54 /* bits; at most 55, so that equal hash >> 9 share a leaf */
struct fs_dirent_disk { /* followed by name_len bytes, then padding to 4 */
	le64 hash;
	le64 ino;
	le32 gen;
	le16 rec_len;
	uint8_t coll;
	uint8_t type;	/* DT_* */
	uint8_t name_len;
	uint8_t reserved[3];
};
_Static_assert(sizeof(struct fs_dirent_disk) == 28, "dirent size");
struct fs_dirindex_disk { /* 64 children by 6 bits of hash; equal neighbours share a leaf */
	struct fs_mhdr_disk h; /* res TOK_DIR, id = directory inode */
	le64 prefix;
	uint8_t depth_bits; /* hash bits used above this node */
	uint8_t reserved[960 - 9];
	struct fs_bptr_disk p[64];
};
_Static_assert(sizeof(struct fs_dirindex_disk) == FS_SUB, "directory index size");
struct fs_dirleaf_disk {
	struct fs_mhdr_disk h; /* res TOK_DIR, id = directory inode */
	le64 prefix;	    /* top depth_bits of every hash in here, left-aligned */
	uint8_t depth_bits;
	uint8_t reserved0;
	le16 used;	    /* bytes of entries */
	le16 count;
	le16 reserved1;
	uint8_t reserved2[16];
	uint8_t ents[FS_SUB - 64 - 32];
};
_Static_assert(sizeof(struct fs_dirleaf_disk) == FS_SUB, "leaf size");

/* ---- xattr block / inline xattrs: a packed list of these ---------------------------------------------------------- */
enum { FS_XE_EXT = 1 /* the value is an fs_xattr_ext_disk, which says where the real one lies */ };
struct fs_xattr_ent_disk { /* followed by name, then value; no padding */
	uint8_t name_len;
	uint8_t flags;
	le16 value_len;
};
#define FS_XATTR_VALUE_MAX 65536u
struct fs_xattr_ext_disk { /* the value is bytes [0, len) of an extent in a data region; the rest of its last sub is zero */
	struct fs_bptr_disk p;
	le32 len; /* 1..FS_XATTR_VALUE_MAX; p.subs is what that takes */
	le32 reserved;
	le64 csum; /* ts_csum64 of the value */
};
_Static_assert(sizeof(struct fs_xattr_ext_disk) == 64, "external value");
struct fs_xattr_disk {
	struct fs_mhdr_disk h; /* res TOK_INODE */
	le16 used;
	uint8_t reserved[6];
	uint8_t ents[FS_SUB - 64 - 8];
};
_Static_assert(sizeof(struct fs_xattr_disk) == FS_SUB, "xattr block size");
/* More than one block: the inode's pointer has FS_BP_INDEX and leads to this; there is no inline list then. */
#define FS_XATTR_LEAVES 83
struct fs_xattr_index_disk {
	struct fs_mhdr_disk h; /* res TOK_INODE */
	le16 count;	       /* of p, the others are zero; 2 at least */
	uint8_t reserved[46];
	struct fs_bptr_disk p[FS_XATTR_LEAVES]; /* FS_BT_XATTR, none empty */
};
_Static_assert(sizeof(struct fs_xattr_index_disk) == FS_SUB, "xattr index size");

/* ---- log -------------------------------------------------------------------------------------------------------
 * A slot is log_subs long: two header blocks written in turn (the higher valid sequence wins), then a ring of 4 KiB
 * blocks. LSN = byte position in the endless stream; place in the ring = LSN modulo ring bytes. A frame holds whole
 * transactions, is a multiple of 4 KiB, at most FS_FRAME_MAX, and never wraps: a PAD frame fills the end of the ring. */
enum fs_log_state { FS_LOG_FREE = 0, FS_LOG_ACTIVE = 1, FS_LOG_SEALED = 2, FS_LOG_CLEAN = 3 /* nothing to replay; intents may remain */ };
struct fs_loghead_disk {
	struct fs_mhdr_disk h; /* res TOK_SLOT, id = slot */
	le64 sequence;
	le32 slot;
	le32 state;
	le32 node;
	le32 reserved0;
	le64 incarnation;	/* owner */
	le64 tail_lsn;		/* replay starts here */
	le64 seal_lsn;		/* SEALED: end of what may ever be read */
	le64 lamport;		/* highest version given when the header was written */
	le64 sealed_by;		/* incarnation of the recoverer */
	uint8_t reserved[FS_SUB - 64 - 64];
};
_Static_assert(sizeof(struct fs_loghead_disk) == FS_SUB, "log header size");

#define FS_FRAME_MAGIC 0x4d465354u /* "TSFM" */
#define FS_FRAME_MAX   (1u << 20)
struct fs_frame_disk { /* 64 bytes */
	le32 magic;
	le32 slot;
	le64 incarnation;
	le64 lsn;	 /* of this frame */
	le32 frame_len;	 /* bytes, multiple of 4 KiB */
	le32 payload_len; /* bytes of records behind this header; 0 = padding */
	le64 tail_lsn;	 /* tail known when written */
	uint8_t fs_id8[8];
	le64 reserved;
	le64 csum;	 /* ts_csum64_skip over 64 + payload_len bytes */
};
_Static_assert(sizeof(struct fs_frame_disk) == 64, "frame header size");

enum fs_rec_type {
	FS_REC_IMAGE = 1, /* whole block; payload = runs of non-zero bytes, the rest is zero */
	FS_REC_DELTA,	  /* runs that replace bytes of the version prev_version */
	FS_REC_INTENT,	  /* payload fs_intent_disk: to be done by whoever owns this log, now or after recovery */
	FS_REC_INTENT_DONE, /* res_id = intent number */
	FS_REC_RESULT,	  /* result of a shipped operation (reserved) */
	FS_REC_ADOPTED,	  /* res_id = slot, version = incarnation: the live intents of that log are in this frame, under new numbers */
};
struct fs_rec_disk { /* 40 bytes; a list of runs follows, each le16 off, le16 len, bytes */
	uint8_t type;
	uint8_t res_kind;
	uint8_t flags;
	uint8_t block_type;
	le32 len;	/* of the payload behind this header */
	le64 res_id;
	le64 addr;
	le64 prev_version;
	le64 version;
};
_Static_assert(sizeof(struct fs_rec_disk) == 40, "record size");

enum fs_intent_type { FS_INTENT_FREE = 1 /* subs at addr */, FS_INTENT_ORPHAN = 2 /* inode without links: free when nobody has it open */ };
struct fs_intent_disk { /* number unique within (slot, incarnation); re-logged when the tail passes it */
	le64 number;
	le32 type;
	le32 subs;
	le64 a;	 /* FREE: address; ORPHAN: inode */
	le64 b;	 /* FREE: birth; ORPHAN: generation */
};
_Static_assert(sizeof(struct fs_intent_disk) == 32, "intent size");

#endif
