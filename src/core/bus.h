/* bus.h: pages of a mapped file that are gone when they are used.
 *
 * A file that shrinks, or a disk that fails, makes the use of a mapping raise SIGBUS. With
 * bus_handle a program asks for zeros in such pages instead; the mapping is marked, and
 * whoever uses it asks os_map_changed before its results go anywhere. A signal that no
 * mapping of ours has raised goes to the handler that was there before. The handler calls
 * nothing but fstat and mmap. Its table is one of the process, as signals are. */
#ifndef OVI_CORE_BUS_H
#define OVI_CORE_BUS_H

#include <stdbool.h>
#include <stddef.h>

/* Installs the handler, if it is not the one that stands. From one thread at a time. */
void bus_handle(void);
/* Takes a mapping of a file into the table, before its first use, and out of it, before it is
 * unmapped. 0: the table is full, and nobody watches; unwatch takes it. */
int bus_watch(const void *data, size_t size, int fd);
void bus_unwatch(int watch);
/* Has a page of it been replaced by zeros? */
bool bus_lost(int watch);
#endif
