/* Pack and unpack from C: the golden model of tests/data/representation_raw_f16_v1.bin (two layers,
 * one KV head of four dims, three tokens), whose manifest and sections are known byte for byte. */
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "capi_test.h"
#include "quire_kv.h"

enum { kLayers = 2, kTokens = 3, kDims = 4, kRows = 8, kGoldenBytes = 704 };

static size_t make_model(uint8_t* out) {
  static const uint32_t words[5] = {0, 1, kDims, kDims, kDims};
  static const float frequencies[2] = {1.0f, 0.01f};
  const uint32_t n_layers = kLayers;
  const uint32_t n_pairs = 2;
  const float factor = 1.0f;
  size_t size = 0;
  memset(out, 1, 32);
  memset(out + 32, 2, 32);
  memset(out + 64, 0, 32);
  memcpy(out + 96, &n_layers, 4);
  size = 100;
  for (int layer = 0; layer < kLayers; ++layer) {
    const uint8_t kinds[4] = {0, 1, 0, 0}; /* full attention, NEOX */
    memcpy(out + size, kinds, 4);
    memcpy(out + size + 4, words, 20);
    memcpy(out + size + 24, &factor, 4);
    memcpy(out + size + 28, &n_pairs, 4);
    memcpy(out + size + 32, frequencies, 8);
    size += 40;
  }
  return size;
}

/* K as [row][dim], V as [dim][row]. */
typedef struct memory {
  float keys[kLayers][kRows][kDims];
  float values[kLayers][kDims][kRows];
  quire_kv_plane planes[2 * kLayers];
  quire_kv_memory kv;
} memory;

static void show(memory* m) {
  memset(m->planes, 0, sizeof(m->planes));
  memset(&m->kv, 0, sizeof(m->kv));
  for (int i = 0; i < 2 * kLayers; ++i) {
    quire_kv_plane* plane = &m->planes[i];
    plane->struct_bytes = sizeof(*plane);
    plane->element = QUIRE_ELEMENT_F32;
    plane->n_rows = kRows;
    plane->data = i % 2 == 0 ? (void*)m->keys[i / 2] : (void*)m->values[i / 2];
    plane->token_stride = i % 2 == 0 ? kDims * 4 : 4;
    plane->head_stride = kDims * kRows * 4;
    plane->dim_stride = i % 2 == 0 ? 4 : kRows * 4;
  }
  m->kv.struct_bytes = sizeof(m->kv);
  m->kv.planes = m->planes;
  m->kv.n_planes = 2 * kLayers;
}

static float sample(int layer, int token, int dim, int plane) {
  return (float)(layer + 1) * 0.5f + (float)token * 0.25f + (float)(4 * dim) + (float)plane;
}

static uint8_t model_bytes[256];
static const uint32_t tokens[kTokens] = {1000, 1001, 1002};
static const int64_t rows[kTokens] = {5, 0, 3};

static quire_pack_spec make_spec(const char* codec) {
  quire_pack_spec spec;
  memset(&spec, 0, sizeof(spec));
  spec.struct_bytes = sizeof(spec);
  spec.codec_name = codec;
  spec.model_bytes = make_model(model_bytes);
  spec.model = model_bytes;
  spec.tokens = tokens;
  spec.n_tokens = kTokens;
  spec.base_position = 10;
  spec.frame = QUIRE_FRAME_LOCAL;
  return spec;
}

static void fill(memory* m) {
  memset(m, 0, sizeof(*m));
  show(m);
  m->kv.rows = rows;
  m->kv.n_rows = kTokens;
  for (int layer = 0; layer < kLayers; ++layer)
    for (int token = 0; token < kTokens; ++token)
      for (int dim = 0; dim < kDims; ++dim) {
        m->keys[layer][rows[token]][dim] = sample(layer, token, dim, 0);
        m->values[layer][dim][rows[token]] = sample(layer, token, dim, 1);
      }
}

static void test_unpack(const void* data, uint64_t bytes) {
  static const uint8_t mask[kTokens] = {1, 0, 1};
  quire_unpack_options options;
  memory* m = calloc(1, sizeof(*m));
  show(m);
  memset(&options, 0, sizeof(options));
  options.struct_bytes = sizeof(options);
  options.model = model_bytes;
  options.model_bytes = make_model(model_bytes);
  options.position = 10;
  options.row_mask = mask;
  options.n_row_mask = kTokens;
  m->kv.first_row = 2;
  EXPECT(quire_unpack(data, bytes, &options, &m->kv) == QUIRE_OK);
  for (int layer = 0; layer < kLayers; ++layer)
    for (int token = 0; token < kTokens; ++token)
      for (int dim = 0; dim < kDims; ++dim) {
        EXPECT(m->keys[layer][2 + token][dim] ==
               (mask[token] ? sample(layer, token, dim, 0) : 0.0f));
        EXPECT(m->values[layer][dim][2 + token] ==
               (mask[token] ? sample(layer, token, dim, 1) : 0.0f));
      }
  /* NEOX pairs are (0, 2) and (1, 3); the first turns by one radian per position. */
  options.position = 17;
  EXPECT(quire_unpack(data, bytes, &options, &m->kv) == QUIRE_OK);
  EXPECT(fabs(m->keys[0][2][0] - (sample(0, 0, 0, 0) * cos(7.0) - sample(0, 0, 2, 0) * sin(7.0))) <
         1e-5);
  EXPECT(fabs(m->keys[1][4][3] -
              (sample(1, 2, 1, 0) * sin(7 * 0.01f) + sample(1, 2, 3, 0) * cos(7 * 0.01f))) < 1e-5);
  /* The engine's own angles agree at positions this small. */
  {
    const float exact = m->keys[0][2][0];
    const float factors[2] = {1.0f, 1.0f};
    quire_engine_rope rope = {sizeof(rope), 10000.0f, 1.0f, 2, factors};
    m->kv.angles = QUIRE_ANGLES_ENGINE;
    EXPECT(quire_unpack(data, bytes, &options, &m->kv) == QUIRE_INVALID_ARGUMENT);
    m->kv.engine_ropes = &rope;
    m->kv.n_engine_ropes = 1;
    EXPECT(quire_unpack(data, bytes, &options, &m->kv) == QUIRE_OK);
    EXPECT(fabsf(m->keys[0][2][0] - exact) < 1e-4f);
    rope.n_freq_factors = 3;
    EXPECT(quire_unpack(data, bytes, &options, &m->kv) == QUIRE_INVALID_ARGUMENT);
    m->kv.angles = QUIRE_ANGLES_EXACT;
  }
  m->kv.first_row = kRows - kTokens + 1;
  EXPECT(quire_unpack(data, bytes, &options, &m->kv) == QUIRE_INVALID_ARGUMENT);
  m->kv.first_row = 0;
  options.n_row_mask = 2;
  EXPECT(quire_unpack(data, bytes, &options, &m->kv) == QUIRE_INVALID_ARGUMENT);
  options.n_row_mask = kTokens;
  model_bytes[0] = 9;
  EXPECT(quire_unpack(data, bytes, &options, &m->kv) == QUIRE_MODEL_MISMATCH);
  model_bytes[0] = 1;
  EXPECT(quire_unpack(data, bytes - 1, &options, &m->kv) != QUIRE_OK);
  EXPECT(quire_unpack(NULL, bytes, &options, &m->kv) == QUIRE_INVALID_ARGUMENT);
  m->kv.n_planes = 1;
  EXPECT(quire_unpack(data, bytes, &options, &m->kv) == QUIRE_INVALID_ARGUMENT);
  free(m);
}

static void test_pack(void) {
  quire_pack_spec spec = make_spec("raw-f16");
  quire_representation_info info;
  quire_id planned;
  quire_id id;
  uint64_t bytes = 0;
  memory* m = malloc(sizeof(*m));
  uint8_t* buffer;
  fill(m);
  EXPECT(quire_pack(&spec, NULL, NULL, 0, &bytes, &planned) == QUIRE_OK);
  EXPECT(bytes == kGoldenBytes);
  buffer = aligned_alloc(64, kGoldenBytes);
  EXPECT(quire_pack(&spec, &m->kv, buffer, bytes, NULL, &id) == QUIRE_OK);
  EXPECT(memcmp(&id, &planned, sizeof(id)) == 0);
  EXPECT(memcmp(buffer, "QUIREREP", 8) == 0);
  EXPECT(buffer[0x1c0] == 0x00 && buffer[0x1c1] == 0x38); /* 0.5 of layer 0, token 0, dim 0 */

  memset(&info, 0, sizeof(info));
  EXPECT(quire_describe(buffer, bytes, &info) == QUIRE_INVALID_ARGUMENT);
  info.struct_bytes = sizeof(info);
  EXPECT(quire_describe(buffer, bytes, &info) == QUIRE_OK);
  EXPECT(info.codec == 1 && info.frame == QUIRE_FRAME_LOCAL && info.n_tokens == kTokens);
  EXPECT(info.base_position == 10 && info.coverage.layer_end == kLayers);
  EXPECT(memcmp(buffer + info.tokens_offset, tokens, sizeof(tokens)) == 0);
  EXPECT(memcmp(&info.representation, &id, sizeof(id)) == 0);
  test_unpack(buffer, bytes);

  EXPECT(quire_pack(&spec, &m->kv, buffer, bytes - 1, NULL, NULL) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_pack(&spec, &m->kv, buffer + 1, bytes, NULL, NULL) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_pack(&spec, NULL, buffer, bytes, NULL, NULL) == QUIRE_INVALID_ARGUMENT);
  m->keys[1][0][2] = NAN;
  EXPECT(quire_pack(&spec, &m->kv, buffer, bytes, &bytes, &id) == QUIRE_NON_FINITE);
  EXPECT(bytes == 0 && id.bytes[0] == 0 && id.bytes[31] == 0);
  m->planes[0].data = NULL;
  EXPECT(quire_pack(&spec, &m->kv, buffer, kGoldenBytes, NULL, NULL) == QUIRE_INVALID_ARGUMENT);
  free(buffer);
  free(m);
}

/* Codecs of variable size that this library has: the bound, then the size. */
static void test_variable_sizes(void) {
  static const char* const names[] = {"bf16-exp4", "bf16-window3", "int4-rans", "mixed-int8-int4"};
  static const uint8_t salient[kTokens] = {0, 1, 0};
  memory* m = malloc(sizeof(*m));
  fill(m);
  for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); ++i) {
    quire_pack_spec spec = make_spec(names[i]);
    quire_representation_info info;
    quire_unpack_options options;
    uint64_t bound = 0;
    uint64_t bytes = 0;
    uint8_t* buffer;
    const quire_status known = quire_pack(&spec, NULL, NULL, 0, &bound, NULL);
    if (known == QUIRE_NOT_FOUND) continue;
    EXPECT(known == QUIRE_OK);
    spec.salient = salient;
    spec.n_salient = kTokens;
    buffer = aligned_alloc(64, (bound + 127) / 64 * 64);
    EXPECT(quire_pack(&spec, &m->kv, buffer, bound, NULL, NULL) == QUIRE_INVALID_ARGUMENT);
    EXPECT(quire_pack(&spec, &m->kv, buffer, bound - 1, &bytes, NULL) == QUIRE_INVALID_ARGUMENT);
    EXPECT(quire_pack(&spec, &m->kv, buffer, bound + 1, &bytes, NULL) == QUIRE_OK);
    EXPECT(bytes > 0 && bytes <= bound);
    memset(&info, 0, sizeof(info));
    info.struct_bytes = sizeof(info);
    EXPECT(quire_describe(buffer, bytes, &info) == QUIRE_OK);
    EXPECT(info.n_tokens == kTokens);
    memset(&options, 0, sizeof(options));
    options.struct_bytes = sizeof(options);
    options.model = model_bytes;
    options.model_bytes = make_model(model_bytes);
    options.position = 10;
    memset(m->values, 0, sizeof(m->values));
    EXPECT(quire_unpack(buffer, bytes, &options, &m->kv) == QUIRE_OK);
    for (int dim = 0; dim < kDims; ++dim)
      EXPECT(fabsf(m->values[1][dim][rows[1]] - sample(1, 1, dim, 1)) < 1.0f);
    fill(m);
    spec.n_salient = kTokens - 1;
    EXPECT(quire_pack(&spec, &m->kv, buffer, bound, &bytes, NULL) == QUIRE_INVALID_ARGUMENT);
    spec.n_salient = 0;
    EXPECT(quire_pack(&spec, &m->kv, buffer, bound, &bytes, NULL) == QUIRE_INVALID_ARGUMENT);
    /* A caller built before the salient fields. */
    spec.struct_bytes = (uint32_t)offsetof(quire_pack_spec, salient);
    EXPECT(quire_pack(&spec, &m->kv, buffer, bound, &bytes, NULL) == QUIRE_OK);
    free(buffer);
  }
  free(m);
}

static void test_refused_specs(void) {
  uint64_t bytes = 0;
  quire_pack_spec spec = make_spec("raw-f17");
  EXPECT(quire_pack(&spec, NULL, NULL, 0, &bytes, NULL) == QUIRE_NOT_FOUND);
  spec.codec = 1;
  EXPECT(quire_pack(&spec, NULL, NULL, 0, &bytes, NULL) == QUIRE_INVALID_ARGUMENT);
  spec.codec_name = NULL;
  EXPECT(quire_pack(&spec, NULL, NULL, 0, &bytes, NULL) == QUIRE_OK);
  EXPECT(bytes == kGoldenBytes);
  spec.coverage.layer_end = 3;
  spec.coverage.head_end = 1;
  EXPECT(quire_pack(&spec, NULL, NULL, 0, &bytes, NULL) != QUIRE_OK);
  spec.coverage.layer_end = 1;
  EXPECT(quire_pack(&spec, NULL, NULL, 0, &bytes, NULL) == QUIRE_OK);
  EXPECT(bytes < kGoldenBytes);
  spec.model_bytes -= 1;
  EXPECT(quire_pack(&spec, NULL, NULL, 0, &bytes, NULL) != QUIRE_OK);
  spec = make_spec("raw-f16");
  spec.frame = 2;
  EXPECT(quire_pack(&spec, NULL, NULL, 0, &bytes, NULL) == QUIRE_INVALID_ARGUMENT);
  spec.struct_bytes = 0;
  EXPECT(quire_pack(&spec, NULL, NULL, 0, &bytes, NULL) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_pack(NULL, NULL, NULL, 0, &bytes, NULL) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_pack_put(NULL, &spec, NULL, QUIRE_ACK_MEMORY, 0, NULL, NULL) ==
         QUIRE_INVALID_ARGUMENT);
}

void test_kv(void) {
  test_pack();
  test_variable_sizes();
  test_refused_specs();
}
