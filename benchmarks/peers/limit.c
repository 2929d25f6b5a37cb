/* What libjpeg-turbo alone can do: the crop's rows and columns of each JPEG decoded with the fast transform, resized
 * (bilinear, fixed point), mirrored, and written as bytes into a batch. No framework, no reading: files are in memory.
 *
 *   cc -O3 -march=native limit.c -o limit -ljpeg -lm && ./limit SIDE SECONDS FILE...      one thread; prints images per CPU-second
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <jpeglib.h>

enum { BATCH = 64, CHANNELS = 3, ONE = 128 };

typedef struct { unsigned char *bytes; unsigned long size; } File;
typedef struct { int x, y, width, height; } Window;

static unsigned state = 1;

static double draw(void) {
    state = state * 1664525u + 1013904223u;
    return (state >> 8) / 16777216.0;
}

static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static File load(const char *path) {
    File file = {0};
    FILE *in = fopen(path, "rb");
    if (!in) { perror(path); exit(1); }
    fseek(in, 0, SEEK_END);
    file.size = ftell(in);
    rewind(in);
    file.bytes = malloc(file.size);
    if (fread(file.bytes, 1, file.size, in) != file.size) { perror(path); exit(1); }
    fclose(in);
    return file;
}

static Window random_window(int width, int height) {
    for (int attempt = 0; attempt < 10; attempt++) {
        double area = (double)width * height * (0.08 + 0.92 * draw());
        double ratio = exp(log(0.75) + draw() * log((4 / 3.0) / 0.75));
        int w = lround(sqrt(area * ratio)), h = lround(sqrt(area / ratio));
        if (w > 0 && h > 0 && w <= width && h <= height)
            return (Window){draw() * (width - w + 1), draw() * (height - h + 1), w, h};
    }
    return (Window){0, 0, width, height};
}

/* Where pixel i of `side` lies in a row of `length`: the lower neighbour, and the weight of the upper one in 1/ONE. */
static int place(int i, int side, double begin, double extent, int length, int *weight) {
    double at = begin + (i + 0.5) * extent / side - 0.5;
    at = at < 0 ? 0 : at;
    int lower = at > length - 2 ? length - 2 : (int)at;
    *weight = at - lower > 1 ? ONE : (int)((at - lower) * ONE);
    return lower;
}

static void mix_row(const unsigned char *pixels, const int *left, const int *weight, int side, short *row) {
    for (int i = 0; i < side; i++)
        for (int c = 0; c < CHANNELS; c++) {
            const unsigned char *at = pixels + left[i] + c;
            row[i * CHANNELS + c] = at[0] * (ONE - weight[i]) + at[CHANNELS] * weight[i];
        }
}

static void resize(const unsigned char *pixels, int width, int height, double x, Window window, int side, int mirrored,
                   unsigned char *out) {
    static int left[4096], weight[4096];
    static short first[4096 * CHANNELS], second[4096 * CHANNELS];
    short *upper = first, *lower = second;
    int have = -2;
    for (int i = 0; i < side; i++) {
        int to = mirrored ? side - 1 - i : i;
        left[to] = CHANNELS * place(i, side, x, window.width, width, &weight[to]);
    }
    for (int j = 0; j < side; j++) {
        int share, row = place(j, side, 0, window.height, height, &share);
        if (row == have + 1) {
            short *kept = upper;
            upper = lower, lower = kept;
            mix_row(pixels + (size_t)(row + 1) * width * CHANNELS, left, weight, side, lower);
        } else if (row != have) {
            mix_row(pixels + (size_t)row * width * CHANNELS, left, weight, side, upper);
            mix_row(pixels + (size_t)(row + 1) * width * CHANNELS, left, weight, side, lower);
        }
        have = row;
        for (int i = 0; i < side * CHANNELS; i++)
            out[(size_t)j * side * CHANNELS + i] = (upper[i] * (ONE - share) + lower[i] * share + ONE * ONE / 2) / (ONE * ONE);
    }
}

static void decode(struct jpeg_decompress_struct *jpeg, File file, int side, unsigned char *pixels, unsigned char *out) {
    jpeg_mem_src(jpeg, file.bytes, file.size);
    jpeg_read_header(jpeg, TRUE);
    Window window = random_window(jpeg->image_width, jpeg->image_height);
    jpeg->out_color_space = JCS_RGB;
    jpeg->dct_method = JDCT_IFAST;
    jpeg->do_fancy_upsampling = FALSE;
    jpeg_start_decompress(jpeg);
    JDIMENSION left = window.x, width = window.width;
    jpeg_crop_scanline(jpeg, &left, &width); /* widens it to whole blocks */
    if (window.y) jpeg_skip_scanlines(jpeg, window.y);
    for (int row = 0; row < window.height;) {
        JSAMPROW rows[1] = {pixels + (size_t)row * width * CHANNELS};
        row += jpeg_read_scanlines(jpeg, rows, 1);
    }
    jpeg_abort_decompress(jpeg);
    resize(pixels, width, window.height, window.x - (double)left, window, side, draw() < 0.5, out);
}

int main(int count, char **arguments) {
    if (count < 4) return 2;
    int side = atoi(arguments[1]), num_files = count - 3;
    double seconds = atof(arguments[2]);
    File *files = malloc(num_files * sizeof(File));
    for (int i = 0; i < num_files; i++) files[i] = load(arguments[i + 3]);
    unsigned char *pixels = malloc(4096 * 4096 * CHANNELS), *batch = malloc((size_t)BATCH * side * side * CHANNELS);
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_decompress(&jpeg);
    double begun = cpu_seconds(), used;
    long images = 0;
    while ((used = cpu_seconds() - begun) < seconds) {
        decode(&jpeg, files[images % num_files], side, pixels, batch + (size_t)(images % BATCH) * side * side * CHANNELS);
        images++;
    }
    printf("%.1f\n", images / used);
    return 0;
}
