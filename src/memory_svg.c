/* memory_svg.c: see memory_svg.h. Steps, not slopes: memory comes and goes at once. */
#include "memory_svg.h"

#include <stdio.h>
#include <string.h>

#include "core/host.h"

#define WIDTH  960.0
#define HEIGHT 456.0
#define LEFT   70.0
#define TOP    76.0
#define RIGHT  20.0
#define BOTTOM 70.0

/* A budget so many times as high as all else is not drawn to scale. */
#define MOST_ABOVE 2.0

static const struct {
    const char *name, *colour;
} layers[MEMORY_LAYERS] = {
    {"text encoder", "#8da0cb"}, {"fusion model", "#fc8d62"}, {"video VAE", "#66c2a5"},
    {"audio VAE", "#e78ac3"},    {"vocoder", "#a6d854"},      {"activations", "#c8c8c8"},
    {"workspace", "#989898"},
};

static bool same_level(const memory_point *a, const memory_point *b) {
    return strcmp(a->stage, b->stage) == 0 &&
           memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

/* Between equal points there is nothing to see: of a row of them the first and last are drawn. */
static bool goes_on(const memory_picture *p, const memory_point *point) {
    return p->n >= 2 && same_level(&p->point[p->n - 2], point) &&
           same_level(&p->point[p->n - 1], point);
}

void memory_picture_add(memory_picture *p, const memory_point *point) {
    if (goes_on(p, point))
        p->n--;
    if (p->n == p->capacity) {
        err ignored = {0};
        int capacity = p->capacity ? 2 * p->capacity : 64;
        void *grown = mem_resize(&ignored, p->point, (size_t)capacity, sizeof *p->point);
        if (!grown) {
            p->failed = true;
            return;
        }
        p->point = grown;
        p->capacity = capacity;
    }
    p->point[p->n++] = *point;
}

void memory_picture_release(memory_picture *p) {
    mem_free(p->point);
    *p = (memory_picture){0};
}

typedef struct scale {
    double seconds, bytes;
} scale;

static double x_of(const scale *s, double t) {
    return LEFT + (WIDTH - LEFT - RIGHT) * t / s->seconds;
}

static double y_of(const scale *s, double bytes) {
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * bytes / s->bytes;
}

static double total(const memory_point *p, int layers_below) {
    double sum = 0;
    for (int i = 0; i < layers_below; i++)
        sum += (double)p->bytes[i];
    return sum;
}

static scale scale_of(const memory_picture *p) {
    scale s = {.seconds = 1e-3, .bytes = (double)p->planned};
    for (int i = 0; i < p->n; i++) {
        double sum = total(&p->point[i], MEMORY_LAYERS);
        s.bytes = sum > s.bytes ? sum : s.bytes;
        s.seconds = p->point[i].t > s.seconds ? p->point[i].t : s.seconds;
    }
    if ((double)p->budget < MOST_ABOVE * s.bytes && (double)p->budget > s.bytes)
        s.bytes = (double)p->budget;
    s.bytes = s.bytes > 0 ? 1.08 * s.bytes : 1;
    return s;
}

/* One layer as a closed outline: its top edge forwards, the layer below backwards. */
static void draw_layer(const memory_picture *p, const scale *s, int layer, buf *out) {
    buf_printf(out, "<path fill=\"%s\" d=\"", layers[layer].colour);
    for (int i = 0; i < p->n; i++) {
        double y = y_of(s, total(&p->point[i], layer + 1));
        double until = i + 1 < p->n ? p->point[i + 1].t : p->point[i].t;
        buf_printf(out, "%s%.1f %.1fL%.1f %.1f", i ? "L" : "M", x_of(s, p->point[i].t), y,
                   x_of(s, until), y);
    }
    for (int i = p->n - 1; i >= 0; i--) {
        double y = y_of(s, total(&p->point[i], layer));
        double until = i + 1 < p->n ? p->point[i + 1].t : p->point[i].t;
        buf_printf(out, "L%.1f %.1fL%.1f %.1f", x_of(s, until), y, x_of(s, p->point[i].t),
                   y);
    }
    buf_puts(out, "Z\"/>\n");
}

static const char *bytes_text(char text[32], double bytes, double most) {
    if (most >= 1e9)
        snprintf(text, 32, "%.2f GB", bytes / 1e9);
    else
        snprintf(text, 32, "%.2f MB", bytes / 1e6);
    return text;
}

/* The plan, whose words stand below its line, at the right. */
static void draw_plan(const scale *s, size_t bytes, buf *out) {
    char words[32];
    double y = y_of(s, (double)bytes);
    if (!bytes)
        return;
    buf_printf(out,
               "<path stroke=\"#333\" stroke-dasharray=\"6 4\" d=\"M%.1f %.1fH%.1f\"/>"
               "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">planned peak "
               "%s</text>\n",
               LEFT, y, WIDTH - RIGHT, WIDTH - RIGHT, y + 12,
               bytes_text(words, (double)bytes, s->bytes));
}

/* The budget as a line, or as an arrow to where it would be. */
static void draw_budget(const scale *s, size_t bytes, buf *out) {
    char words[32];
    const bool above = (double)bytes > s->bytes;
    const double y = above ? 25 : y_of(s, (double)bytes), x = WIDTH - RIGHT;
    if (!bytes)
        return;
    if (above)
        buf_printf(out, "<path fill=\"#c00\" d=\"M%.1f %.1fl5 9h-10Z\"/>", x - 6, y - 14);
    else
        buf_printf(out, "<path stroke=\"#c00\" d=\"M%.1f %.1fH%.1f\"/>", LEFT, y, x);
    buf_printf(out,
               "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\" fill=\"#c00\">budget %s"
               "%s</text>\n",
               above ? x - 16 : x, y - 5,
               bytes_text(words, (double)bytes, above ? (double)bytes : s->bytes),
               above ? ", above this picture" : "");
}

static void draw_axes(const scale *s, buf *out) {
    char words[32];
    const int digits = s->seconds < 4 ? 2 : s->seconds < 600 ? 1 : 0;
    for (int i = 0; i <= 4; i++) {
        double bytes = s->bytes * i / 4, t = s->seconds * i / 4;
        buf_printf(out,
                   "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>"
                   "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%.*f s</text>\n",
                   LEFT - 6, y_of(s, bytes) + 4, bytes_text(words, bytes, s->bytes),
                   x_of(s, t), HEIGHT - BOTTOM + 16, i < 4 ? "middle" : "end", digits, t);
    }
    buf_printf(out, "<path stroke=\"#333\" fill=\"none\" d=\"M%.1f %.1fV%.1fH%.1f\"/>\n",
               LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT);
}

/* Names above the picture, in three rows, and a thin line where a stage begins. */
static void draw_stages(const memory_picture *p, const scale *s, buf *out) {
    const char *last = "";
    int row = 0;
    for (int i = 0; i < p->n; i++) {
        if (strcmp(p->point[i].stage, last) == 0)
            continue;
        last = p->point[i].stage;
        const double x = x_of(s, p->point[i].t), y = TOP - 32 + 13 * (row++ % 3);
        const bool at_end = x > WIDTH - 100;
        buf_printf(out,
                   "<path stroke=\"#999\" d=\"M%.1f %.1fV%.1f\"/>"
                   "<text x=\"%.1f\" y=\"%.1f\"%s>%s</text>\n",
                   x, y - 9, HEIGHT - BOTTOM, at_end ? x - 3 : x + 3, y,
                   at_end ? " text-anchor=\"end\"" : "", last);
    }
}

static void draw_legend(buf *out) {
    for (int i = 0; i < MEMORY_LAYERS; i++) {
        double x = LEFT + 125 * i;
        buf_printf(out,
                   "<rect x=\"%.0f\" y=\"%.0f\" width=\"12\" height=\"12\" fill=\"%s\"/>"
                   "<text x=\"%.0f\" y=\"%.0f\">%s</text>\n",
                   x, HEIGHT - 28, layers[i].colour, x + 17, HEIGHT - 18, layers[i].name);
    }
}

bool memory_picture_draw(const memory_picture *p, buf *out) {
    scale s = scale_of(p);
    buf_printf(out,
               "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
               "font-family=\"sans-serif\" font-size=\"11\">\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
               "<text x=\"%.0f\" y=\"20\" font-size=\"14\">%s%s%s</text>\n",
               WIDTH, HEIGHT, LEFT, p->title, p->ending ? ", ended early: " : "",
               p->ending ? p->ending : "");
    for (int i = 0; i < MEMORY_LAYERS; i++)
        draw_layer(p, &s, i, out);
    draw_axes(&s, out);
    draw_stages(p, &s, out);
    draw_plan(&s, p->planned, out);
    draw_budget(&s, p->budget, out);
    draw_legend(out);
    buf_puts(out, "</svg>\n");
    return !p->failed && buf_ok(out);
}
