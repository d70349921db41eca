/* SPDX-License-Identifier: Apache-2.0 */
/* NVMe over TCP on the wire, as far as a shared disk needs it: PDUs (NVMe/TCP transport 3.6), commands and completions (base 3.3),
 * Fabrics commands (base 6), what Identify and the logs say (base 5.1), reservations (base 8.1, command set 7). All little-endian. */
#ifndef TESSERA_NSD_NVME_PROTO_H
#define TESSERA_NSD_NVME_PROTO_H

#include "lib/lib.h"

#define NVME_DISCOVERY_NQN "nqn.2014-08.org.nvmexpress.discovery"
#define NVME_NQN_MAX	   223 /* characters */

/* ---- PDUs -------------------------------------------------------------------------------------------------------- */

enum nvme_pdu_type {
	NVME_PDU_ICREQ = 0,
	NVME_PDU_ICRESP = 1,
	NVME_PDU_H2C_TERM = 2,
	NVME_PDU_C2H_TERM = 3,
	NVME_PDU_CMD = 4,
	NVME_PDU_RSP = 5,
	NVME_PDU_H2C_DATA = 6,
	NVME_PDU_C2H_DATA = 7,
	NVME_PDU_R2T = 9,
};
enum { NVME_PDU_F_HDGST = 1, NVME_PDU_F_DDGST = 2, NVME_PDU_F_LAST = 4, NVME_PDU_F_SUCCESS = 8 };
enum { NVME_DGST_HDR = 1, NVME_DGST_DATA = 2 };
enum nvme_fes { /* why a side ends the connection */
	NVME_FES_NONE = 0,
	NVME_FES_HEADER = 1,
	NVME_FES_SEQUENCE = 2,
	NVME_FES_DIGEST = 3,
	NVME_FES_RANGE = 4,
	NVME_FES_LIMIT = 5,
	NVME_FES_PARAMETER = 6,
};

struct nvme_pdu_hdr_msg {
	uint8_t type, flags;
	uint8_t hlen; /* this header's, without digest */
	uint8_t pdo;  /* where the data begins, from the start of the PDU; 0: no data */
	le32 plen;    /* all of it, digests too */
};
struct nvme_ic_msg { /* ICReq and ICResp */
	struct nvme_pdu_hdr_msg hdr;
	le16 pfv;
	uint8_t pda; /* data alignment wanted, in dwords, from 0 */
	uint8_t dgst;
	le32 max; /* ICReq: R2Ts at a time, from 0; ICResp: bytes of one H2CData */
	uint8_t reserved[112];
};
struct nvme_data_msg { /* H2CData, C2HData, R2T */
	struct nvme_pdu_hdr_msg hdr;
	le16 cid;
	le16 ttag;
	le32 off, len;
	le32 reserved;
};
struct nvme_term_msg { /* followed by up to 128 bytes of what was wrong */
	struct nvme_pdu_hdr_msg hdr;
	le16 fes;
	le32 fei;
	uint8_t reserved[10];
};

/* ---- commands and completions ------------------------------------------------------------------------------------ */

enum { NVME_SGL_CAPSULE = 0x01, NVME_SGL_TRANSPORT = 0x5a };
#define NVME_CMD_SGL 0x40 /* flags: the data pointer is a descriptor */

struct nvme_sgl_msg {
	le64 addr;
	le32 len;
	uint8_t reserved[3];
	uint8_t type;
};
struct nvme_cmd_msg {
	uint8_t opcode, flags;
	le16 cid;
	le32 nsid; /* Fabrics: its first byte is the command's type */
	le32 cdw2, cdw3;
	le64 mptr;
	struct nvme_sgl_msg sgl;
	le32 cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};
struct nvme_cpl_msg {
	le32 dw0, dw1;
	le16 sqhd, sqid;
	le16 cid;
	le16 status; /* shifted by one */
};
struct nvme_cmd_pdu_msg {
	struct nvme_pdu_hdr_msg hdr;
	struct nvme_cmd_msg cmd;
};
struct nvme_cpl_pdu_msg {
	struct nvme_pdu_hdr_msg hdr;
	struct nvme_cpl_msg cpl;
};
_Static_assert(sizeof(struct nvme_pdu_hdr_msg) == 8 && sizeof(struct nvme_ic_msg) == 128 && sizeof(struct nvme_data_msg) == 24 &&
		       sizeof(struct nvme_term_msg) == 24 && sizeof(struct nvme_cmd_msg) == 64 &&
		       sizeof(struct nvme_cpl_msg) == 16 && sizeof(struct nvme_cmd_pdu_msg) == 72 &&
		       sizeof(struct nvme_cpl_pdu_msg) == 24,
	       "NVMe/TCP sizes");
#define NVME_HDR_MAX 128 /* the longest header of all */

enum nvme_opcode {
	NVME_OP_FLUSH = 0x00,
	NVME_OP_WRITE = 0x01,
	NVME_OP_READ = 0x02,
	NVME_OP_WRITE_ZEROES = 0x08,
	NVME_OP_DSM = 0x09,
	NVME_OP_RESV_REGISTER = 0x0d,
	NVME_OP_RESV_REPORT = 0x0e,
	NVME_OP_RESV_ACQUIRE = 0x11,
	NVME_OP_RESV_RELEASE = 0x15,
	NVME_OP_FABRICS = 0x7f,
	/* on the admin queue */
	NVME_ADM_GET_LOG = 0x02,
	NVME_ADM_IDENTIFY = 0x06,
	NVME_ADM_ABORT = 0x08,
	NVME_ADM_SET_FEATURES = 0x09,
	NVME_ADM_GET_FEATURES = 0x0a,
	NVME_ADM_ASYNC_EVENT = 0x0c,
	NVME_ADM_KEEP_ALIVE = 0x18,
};
enum { NVME_FAB_SET = 0, NVME_FAB_CONNECT = 1, NVME_FAB_GET = 4 };
enum { NVME_PROP_CAP = 0, NVME_PROP_VS = 8, NVME_PROP_CC = 0x14, NVME_PROP_CSTS = 0x1c };
enum { NVME_FEAT_CACHE = 6, NVME_FEAT_QUEUES = 7, NVME_FEAT_EVENTS = 0xb, NVME_FEAT_KATO = 0xf, NVME_FEAT_RESV_PERSIST = 0x83 };
enum { NVME_CNS_NS = 0, NVME_CNS_CTRL = 1, NVME_CNS_NS_LIST = 2, NVME_CNS_NS_IDS = 3 };
enum { NVME_NIDT_EUI64 = 1, NVME_NIDT_NGUID = 2, NVME_NIDT_UUID = 3 };
enum { NVME_LOG_DISCOVERY = 0x70 };
enum { NVME_ONCS_DSM = 1 << 2, NVME_ONCS_WRITE_ZEROES = 1 << 3, NVME_ONCS_RESERVATIONS = 1 << 5 };
#define NVME_CC_EN     1u
#define NVME_CC_NORMAL 0x460000u /* entries of 64 and 16 bytes */
#define NVME_CC_SHN    (1u << 14)
#define NVME_CSTS_RDY  1u
#define NVME_CSTS_CFS  2u
#define NVME_DSM_DEALLOCATE 4u

enum nvme_status { /* code type and code, without "more" and "do not retry" */
	NVME_SC_OK = 0,
	NVME_SC_INVALID_OPCODE = 0x01,
	NVME_SC_INVALID_FIELD = 0x02,
	NVME_SC_CID_CONFLICT = 0x03,
	NVME_SC_DATA_TRANSFER = 0x04,
	NVME_SC_INTERNAL = 0x06,
	NVME_SC_ABORTED = 0x07,
	NVME_SC_SQ_DELETED = 0x08,
	NVME_SC_INVALID_NS = 0x0b,
	NVME_SC_SEQUENCE = 0x0c,
	NVME_SC_SGL_LENGTH = 0x0f,
	NVME_SC_KATO_INVALID = 0x1a,
	NVME_SC_PREEMPTED = 0x1b, /* aborted by a preemption */
	NVME_SC_WRITE_PROTECTED = 0x20,
	NVME_SC_INTERRUPTED = 0x21,
	NVME_SC_TRANSPORT = 0x22, /* of the way, not of the unit: a digest that was wrong */
	NVME_SC_LBA_RANGE = 0x80,
	NVME_SC_NS_NOT_READY = 0x82,
	NVME_SC_RESV_CONFLICT = 0x83,
	NVME_SC_CONNECT_FORMAT = 0x180,
	NVME_SC_CONNECT_BUSY = 0x181,
	NVME_SC_CONNECT_PARAM = 0x182,
	NVME_SC_CONNECT_HOST = 0x184,
	NVME_SC_WRITE_FAULT = 0x280,
	NVME_SC_READ_FAULT = 0x281,
};
#define NVME_SCT_PATH	 0x300
#define NVME_SC_MASK	 0x7ff
#define NVME_STATUS_DNR	 0x4000 /* before the shift */

struct nvme_connect_msg { /* the data of Fabrics Connect */
	uint8_t hostid[16];
	le16 cntlid;
	uint8_t reserved0[238];
	char subnqn[256], hostnqn[256];
	uint8_t reserved1[256];
};
_Static_assert(sizeof(struct nvme_connect_msg) == 1024, "Connect data");

/* ---- what a controller and a namespace say ----------------------------------------------------------------------- */

#define NVME_IDENTIFY_BYTES 4096
enum { /* offsets in Identify Controller */
	NVME_IDC_SERIAL = 4,
	NVME_IDC_MODEL = 24,
	NVME_IDC_CMIC = 76,
	NVME_IDC_MDTS = 77,
	NVME_IDC_CNTLID = 78,
	NVME_IDC_VERSION = 80,
	NVME_IDC_CTRATT = 96,
	NVME_IDC_TYPE = 111,
	NVME_IDC_KAS = 320,
	NVME_IDC_CQT = 386, /* ms that commands of a lost connection may go on */
	NVME_IDC_SQES = 512,
	NVME_IDC_CQES = 513,
	NVME_IDC_MAXCMD = 514,
	NVME_IDC_NN = 516,
	NVME_IDC_ONCS = 520,
	NVME_IDC_VWC = 525,
	NVME_IDC_SGLS = 536,
	NVME_IDC_SUBNQN = 768,
	NVME_IDC_IOCCSZ = 1792,
	NVME_IDC_IORCSZ = 1796,
	NVME_IDC_ICDOFF = 1800,
	NVME_IDC_MSDBD = 1803,
};
#define NVME_CTRATT_TBKAS (1u << 6)
enum { /* offsets in Identify Namespace */
	NVME_IDN_NSZE = 0,
	NVME_IDN_NCAP = 8,
	NVME_IDN_NUSE = 16,
	NVME_IDN_NSFEAT = 24,
	NVME_IDN_NLBAF = 25,
	NVME_IDN_FLBAS = 26,
	NVME_IDN_NMIC = 30,
	NVME_IDN_RESCAP = 31,
	NVME_IDN_DLFEAT = 33,
	NVME_IDN_NGUID = 104,
	NVME_IDN_EUI64 = 120,
	NVME_IDN_LBAF = 128,
};
enum { NVME_RESCAP_PERSIST = 1, NVME_RESCAP_WEAR = 1 << 5 };

struct nvme_disc_hdr_msg {
	le64 generation, count;
	le16 format;
	uint8_t reserved[1006];
};
struct nvme_disc_entry_msg {
	uint8_t trtype, adrfam, subtype, treq;
	le16 portid, cntlid, asqsz, eflags;
	uint8_t reserved0[20];
	char trsvcid[32];
	uint8_t reserved1[192];
	char subnqn[256], traddr[256];
	uint8_t tsas[256];
};
_Static_assert(sizeof(struct nvme_disc_hdr_msg) == 1024 && sizeof(struct nvme_disc_entry_msg) == 1024, "discovery log");
enum { NVME_TRTYPE_TCP = 3, NVME_ADRFAM_IPV4 = 1, NVME_ADRFAM_IPV6 = 2, NVME_SUBTYPE_NVM = 2 };

/* ---- reservations: types named, never numbered elsewhere --------------------------------------------------------- */

enum nvme_resv_type {
	NVME_RESV_NONE = 0,
	NVME_RESV_WE = 1,
	NVME_RESV_EA = 2,
	NVME_RESV_WE_REGISTRANTS = 3,
	NVME_RESV_EA_REGISTRANTS = 4,
	NVME_RESV_WE_ALL = 5,
	NVME_RESV_EA_ALL = 6,
};
enum { NVME_REGISTER = 0, NVME_UNREGISTER = 1, NVME_REPLACE = 2 };
enum { NVME_ACQUIRE = 0, NVME_PREEMPT = 1, NVME_PREEMPT_ABORT = 2 };
enum { NVME_RELEASE = 0, NVME_CLEAR = 1 };
#define NVME_RESV_IGNORE_KEY (1u << 3)
#define NVME_RESV_PERSIST    (3u << 30)
#define NVME_RESV_FORGET     (2u << 30)

struct nvme_resv_keys_msg {
	le64 current, other;
};
struct nvme_report_hdr_msg { /* of the extended form */
	le32 generation;
	uint8_t type;
	le16 count;
	uint8_t reserved0[2];
	uint8_t persist;
	uint8_t reserved1[54];
} __attribute__((packed));
struct nvme_report_entry_msg {
	le16 cntlid;
	uint8_t status; /* bit 0: holder */
	uint8_t reserved0[5];
	le64 key;
	uint8_t hostid[16];
	uint8_t reserved1[32];
};
_Static_assert(sizeof(struct nvme_report_hdr_msg) == 64 && sizeof(struct nvme_report_entry_msg) == 64, "reservation report");

struct nvme_dsm_range_msg {
	le32 attributes, blocks;
	le64 lba;
};

#endif
