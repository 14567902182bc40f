/* official_config.h: the inference configuration that is published with the model, as it is.
 *
 * Every key of it sets what the option of that meaning sets; options on the command line win.
 * What is not offered here (t2i2v, more than one device, qint8, a sharded text encoder) is
 * refused by name before any work. */
#ifndef OVI_CLI_OFFICIAL_CONFIG_H
#define OVI_CLI_OFFICIAL_CONFIG_H

#include "yaml_map.h"

typedef enum config_mode { MODE_ANY, MODE_T2V, MODE_I2V } config_mode;

typedef struct cli_config {
    const char *path; /* of the file; NULL: none */
    yaml_map map;     /* owned: keeps the texts alive */
    const char *prompt, *image, *output_dir;
    const char *ckpt_dir;
    const char
        *model_name; /* counts for published models, not for those with an ovi.json */
    config_mode mode;
    bool fp8;
    char *fusion; /* owned: the fp8 checkpoint */
} cli_config;

struct cli_args;
/* Reads the file and sets what it says. False: see message. */
bool config_apply(struct cli_args *args, const char *path, ovi_message *message);
void config_release(cli_config *c);
#endif
