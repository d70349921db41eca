#include "nsd/nsd_int.h"
int nsd_iscsi_open(const struct nsd_open_args *args, struct nsd_dev **out, char *errmsg, size_t errlen){return -ENOSYS;}
