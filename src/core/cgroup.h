/* cgroup.h: what control groups leave of host memory, as containers and services are bounded. */
#ifndef OVI_CORE_CGROUP_H
#define OVI_CORE_CGROUP_H

#include <stddef.h>

/* The least that this process's groups, of version 1 or 2, and those above them still give: the
 * limit less what is used, page cache excepted, which the system takes back. SIZE_MAX: there is
 * no limit. root stands before every path: "", in tests a folder. */
size_t cgroup_left(const char *root);
#endif
