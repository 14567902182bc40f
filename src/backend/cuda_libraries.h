/* cuda_libraries.h: where NVIDIA's libraries are looked for; for this library and for the
 * shared object of the cuda backend. */
#ifndef OVI_BACKEND_CUDA_LIBRARIES_H
#define OVI_BACKEND_CUDA_LIBRARIES_H

#define CUDA_LIBRARY_WHY 256

/* Why a library was not opened, which is there: the loader's words; "": it is not there. */
typedef struct library_why {
    char text[CUDA_LIBRARY_WHY];
} library_why;

/* Opens a library (dlopen's mode) from the first of these places that has one which opens:
 * the caller's folders ("a:b:c"; NULL: none), the loader's own path, CUDA's usual folder, the
 * Python packages of /usr/local, /usr and /opt. A folder of the caller's may be one of
 * libraries, one of Python packages (.../site-packages), or a Python installation or virtual
 * environment. NULL: in none of them; why is that of the first that was there. */
void *cuda_library_open(const char *folders, const char *name, int mode,
                        library_why *why);
/* In these folders alone, of libraries alone; on the loader's own path alone. *why is kept if it
 * says something already. */
void *cuda_library_open_in(const char *folders, const char *name, int mode,
                           library_why *why);
void *cuda_library_open_named(const char *name, int mode, library_why *why);
#endif
