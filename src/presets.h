/* presets.h: the small models that make-checkpoint can write, as the ovi.json they carry. */
#ifndef OVI_PRESETS_H
#define OVI_PRESETS_H

/* The ovi.json of a small preset (micro, tiny, mid); NULL: no such preset. */
const char *preset_json(const char *name);
#endif
