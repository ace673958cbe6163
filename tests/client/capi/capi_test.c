/* The C ABI from C: what needs no server. */
#include "capi_test.h"

#include <stdlib.h>
#include <string.h>

#include "quire_gpu.h"

int failures = 0;

static void test_version(void) {
  EXPECT(quire_abi_version() == QUIRE_ABI_VERSION);
  EXPECT(strlen(quire_version()) > 0);
  EXPECT(strcmp(quire_status_name(QUIRE_NOT_FOUND), "NOT_FOUND") == 0);
  EXPECT(strcmp(quire_status_name(9999), "UNKNOWN") == 0);
  quire_free(NULL);
}

/* The worked example of docs/formats/ids.md. */
static void test_ids(void) {
  static const uint8_t expected[4] = {0xa2, 0xe8, 0x85, 0x1b};
  const uint32_t tokens[3] = {1, 2, 3};
  quire_id model;
  quire_id object;
  quire_id variant;
  quire_id representation;
  quire_context context;
  const quire_coverage coverage = {0, 2, 0, 4};
  memset(model.bytes, 1, sizeof(model.bytes));
  EXPECT(quire_object_id(&model, tokens, 3, NULL, 0, &object) == QUIRE_OK);
  EXPECT(memcmp(object.bytes, expected, 4) == 0);
  memset(&context, 0, sizeof(context));
  EXPECT(quire_variant_id(&object, &context, &variant) == QUIRE_INVALID_ARGUMENT);
  EXPECT(strstr(quire_last_error(), "struct_bytes") != NULL);
  context.struct_bytes = sizeof(context);
  EXPECT(quire_variant_id(&object, &context, &variant) == QUIRE_OK);
  EXPECT(variant.bytes[0] == 0xd1 && variant.bytes[31] == 0x39);
  EXPECT(quire_representation_id(&variant, 1, QUIRE_FRAME_LOCAL, &coverage, &representation) ==
         QUIRE_OK);
  EXPECT(representation.bytes[0] == 0x14 && representation.bytes[31] == 0x91);
  EXPECT(quire_representation_id(&variant, 1, 2, &coverage, &representation) ==
         QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_object_id(NULL, tokens, 3, NULL, 0, &object) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_object_id(&model, NULL, 3, NULL, 0, &object) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_object_id(&model, tokens, 3, "short", 5, &object) == QUIRE_INVALID_ARGUMENT);
}

/* A caller built against a later header: more bytes than this library knows. */
static void test_larger_structs(void) {
  struct {
    quire_context context;
    uint64_t later;
  } source;
  quire_id object;
  quire_id id;
  memset(&object, 7, sizeof(object));
  memset(&source, 0, sizeof(source));
  source.context.struct_bytes = sizeof(source);
  EXPECT(quire_variant_id(&object, &source.context, &id) == QUIRE_OK);
  source.later = 1;
  EXPECT(quire_variant_id(&object, &source.context, &id) == QUIRE_INVALID_ARGUMENT);
}

static void test_no_server(void) {
  quire_connect_options options;
  quire_client* client = (quire_client*)&options;
  memset(&options, 0, sizeof(options));
  options.struct_bytes = sizeof(options);
  options.socket_path = "/tmp/quire-test-no-such-directory/quired.sock";
  EXPECT(quire_connect(&options, &client) == QUIRE_UNAVAILABLE);
  EXPECT(client == NULL);
  EXPECT(strstr(quire_last_error(), "start it with `quired`") != NULL);
  /* Every call on a missing handle is an error or nothing. */
  EXPECT(quire_ping(NULL) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_lease_check(NULL) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_lease_data(NULL) == NULL && quire_lease_bytes(NULL) == 0);
  quire_lease_release(NULL);
  quire_lease_free(NULL);
  quire_window_abort(NULL);
  quire_window_free(NULL);
  quire_close(NULL);
}

/* Every call on a missing pool or lease is an error or nothing; what needs a server is tested from
 * Python. */
static void test_gpu_without_handles(void) {
  quire_gpu_pool* pool = (quire_gpu_pool*)&failures;
  quire_gpu_lease* lease = (quire_gpu_lease*)&failures;
  quire_gpu_pool_info pool_info;
  quire_gpu_lease_info lease_info;
  quire_representation_info info;
  quire_gpu_section* sections = (quire_gpu_section*)&failures;
  size_t n_sections = 9;
  quire_id id;
  quire_status status = QUIRE_OK;
  memset(&id, 0, sizeof(id));
  memset(&pool_info, 0, sizeof(pool_info));
  memset(&lease_info, 0, sizeof(lease_info));
  memset(&info, 0, sizeof(info));
  EXPECT(quire_gpu_pool_open(NULL, NULL, &pool) == QUIRE_INVALID_ARGUMENT);
  EXPECT(pool == NULL);
  EXPECT(quire_gpu_pool_open(NULL, NULL, NULL) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_gpu_pool_get_info(NULL, &pool_info) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_gpu_acquire(NULL, &id, &lease) == QUIRE_INVALID_ARGUMENT);
  EXPECT(lease == NULL);
  lease = (quire_gpu_lease*)&failures;
  EXPECT(quire_gpu_acquire_many(NULL, &id, 1, &lease, &status) == QUIRE_INVALID_ARGUMENT);
  EXPECT(lease == NULL && status != QUIRE_OK);
  EXPECT(quire_gpu_lease_get_info(NULL, &lease_info) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_gpu_lease_describe(NULL, &info, &sections, &n_sections, NULL) ==
         QUIRE_INVALID_ARGUMENT);
  EXPECT(sections == NULL && n_sections == 0);
  EXPECT(quire_gpu_lease_check(NULL) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_gpu_lease_renew(NULL, 1) == QUIRE_INVALID_ARGUMENT);
  quire_gpu_lease_release(NULL);
  quire_gpu_lease_free(NULL);
  quire_gpu_pool_free(NULL);
}

static quire_segment segment_of(uint32_t kind, uint32_t begin, uint32_t n_tokens, uint32_t exact) {
  quire_segment segment;
  memset(&segment, 0, sizeof(segment));
  segment.struct_bytes = sizeof(segment);
  segment.kind = kind;
  segment.token_begin = begin;
  segment.n_tokens = n_tokens;
  segment.match_index = -1;
  segment.exact = exact;
  return segment;
}

/* chunk [0, 10), chunk [10, 20), question [20, 24): a layer of four costs 0.05. */
static void test_rows_after_a_pass(void) {
  quire_segment segments[3];
  quire_question_pass pass;
  const uint32_t full[4] = {0, 1, 2, 3};
  const uint32_t descending[2] = {2, 1};
  float mass[24];
  uint32_t* rows = NULL;
  size_t n_rows = 0;
  uint32_t layers = 9;
  segments[0] = segment_of(QUIRE_SEGMENT_CHUNK, 0, 10, 0);
  segments[1] = segment_of(QUIRE_SEGMENT_CHUNK, 10, 10, 0);
  segments[2] = segment_of(QUIRE_SEGMENT_FRESH, 20, 4, 0);
  memset(mass, 0, sizeof(mass));
  mass[4] = 2.0f;
  mass[15] = 3.0f;
  memset(&pass, 0, sizeof(pass));
  pass.struct_bytes = sizeof(pass);
  pass.layers_run = 1;
  pass.n_layers = 4;
  pass.column_mass = mass;
  EXPECT(quire_question_layers("query-value:0.31", 24, segments, 3, 4, full, 4, &layers) ==
         QUIRE_OK);
  EXPECT(layers == 2);
  EXPECT(quire_question_layers("query-value:0.16", 24, segments, 3, 4, full, 4, &layers) ==
         QUIRE_OK);
  EXPECT(layers == 1);
  EXPECT(quire_question_layers("reuse", 24, segments, 3, 4, full, 4, &layers) == QUIRE_OK);
  EXPECT(layers == 0);
  EXPECT(quire_question_layers(NULL, 24, segments, 3, 4, descending, 2, &layers) ==
         QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_question_layers(NULL, 24, segments, 3, 2, full, 4, &layers) ==
         QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_question_layers(NULL, 24, segments, 3, 4, NULL, 4, &layers) ==
         QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_question_layers(NULL, 24, segments, 3, 4, full, 4, NULL) == QUIRE_INVALID_ARGUMENT);

  /* 0.15 of 20 tokens, less one for the pass: two rows. */
  EXPECT(quire_select_rows_after("query-value:0.15", 24, segments, 3, &pass, &rows, &n_rows) ==
         QUIRE_OK);
  EXPECT(n_rows == 2 && rows[0] == 14 && rows[1] == 15);
  quire_free(rows);
  /* NULL is the default policy, which is that one. */
  EXPECT(quire_select_rows_after(NULL, 24, segments, 3, &pass, &rows, &n_rows) == QUIRE_OK);
  EXPECT(n_rows == 2 && rows[0] == 14);
  quire_free(rows);
  segments[1].exact = 1;
  EXPECT(quire_select_rows_after(NULL, 24, segments, 3, &pass, &rows, &n_rows) == QUIRE_OK);
  EXPECT(n_rows == 2 && rows[0] == 3 && rows[1] == 4);
  quire_free(rows);
  /* After a pass through all layers nothing is left of 0.15. */
  EXPECT(quire_select_rows("query-value:0.15", 24, segments, 3, mass, &rows, &n_rows) == QUIRE_OK);
  EXPECT(n_rows == 0);
  quire_free(rows);
  EXPECT(quire_select_rows_after("query-value:0.15", 24, segments, 3, NULL, &rows, &n_rows) ==
         QUIRE_OK);
  EXPECT(n_rows == 0);
  quire_free(rows);
  /* NULL there is "query:0.15" as ever: three rows, exact chunks among them. */
  mass[16] = 1.0f;
  EXPECT(quire_select_rows(NULL, 24, segments, 3, mass, &rows, &n_rows) == QUIRE_OK);
  EXPECT(n_rows == 3 && rows[0] == 4 && rows[1] == 15 && rows[2] == 16);
  quire_free(rows);
  pass.layers_run = 5;
  EXPECT(quire_select_rows_after(NULL, 24, segments, 3, &pass, &rows, &n_rows) ==
         QUIRE_INVALID_ARGUMENT);
  EXPECT(rows == NULL && n_rows == 0);
  pass.struct_bytes = 0;
  EXPECT(quire_select_rows_after(NULL, 24, segments, 3, &pass, &rows, &n_rows) ==
         QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_select_rows_after(NULL, 24, segments, 3, &pass, NULL, &n_rows) ==
         QUIRE_INVALID_ARGUMENT);
}

/* A chunk of 20 tokens behind the 20 before it, and the same one behind something else. */
static void test_exact_chunks(void) {
  uint32_t tokens[50];
  quire_id model, object;
  quire_context context;
  quire_match match;
  quire_plan_options options;
  quire_segment* segments = NULL;
  size_t n_segments = 0;
  const unsigned char salt[16] = {1, 2, 3};
  for (uint32_t i = 0; i < 50; ++i) tokens[i] = 100 + i;
  memset(&model, 5, sizeof(model));
  memset(&context, 0, sizeof(context));
  context.struct_bytes = sizeof(context);
  context.kind = QUIRE_CONTEXT_FIXED_PREFIX;
  EXPECT(quire_prefix_digest(&model, tokens, 20, salt, sizeof(salt), &context.reference) ==
         QUIRE_OK);
  EXPECT(quire_object_id(&model, tokens + 20, 20, salt, sizeof(salt), &object) == QUIRE_OK);
  memset(&match, 0, sizeof(match));
  match.struct_bytes = sizeof(match);
  match.kind = QUIRE_MATCH_CHUNK;
  match.token_begin = match.n_tokens = 20;
  match.base_position = 20;
  match.codec = 16;
  match.context_kind = context.kind;
  match.context_reference = context.reference;
  EXPECT(quire_variant_id(&object, &context, &match.variant) == QUIRE_OK);
  memset(&options, 0, sizeof(options));
  options.struct_bytes = sizeof(options);
  for (int named = 0; named < 3; ++named) {
    options.tokens = named ? tokens : NULL;
    options.model = &model;
    options.salt = salt;
    options.salt_bytes = sizeof(salt);
    tokens[7] = named == 2 ? 9 : 107;
    EXPECT(quire_plan(50, &match, 1, &options, &segments, &n_segments) == QUIRE_OK);
    EXPECT(n_segments == 3);
    if (n_segments == 3) EXPECT(segments[1].exact == (named == 1) && segments[0].exact == 0);
    quire_free(segments);
  }
  options.model = NULL;
  EXPECT(quire_plan(50, &match, 1, &options, &segments, &n_segments) == QUIRE_INVALID_ARGUMENT);
  options.model = &model;
  options.salt = NULL;
  EXPECT(quire_plan(50, &match, 1, &options, &segments, &n_segments) == QUIRE_INVALID_ARGUMENT);
  /* A caller from before these fields. */
  options.struct_bytes = offsetof(quire_plan_options, tokens);
  EXPECT(quire_plan(50, &match, 1, &options, &segments, &n_segments) == QUIRE_OK);
  EXPECT(n_segments == 3 && segments[1].exact == 0);
  quire_free(segments);
}

static void test_plan_and_rows(void) {
  quire_match matches[2];
  quire_plan_options options;
  quire_segment* segments = NULL;
  size_t n_segments = 0;
  uint32_t* rows = NULL;
  size_t n_rows = 0;
  float mass[100];
  memset(matches, 0, sizeof(matches));
  matches[0].struct_bytes = matches[1].struct_bytes = sizeof(quire_match);
  matches[0].kind = QUIRE_MATCH_PREFIX;
  matches[0].n_tokens = 32;
  matches[1].kind = QUIRE_MATCH_CHUNK;
  matches[1].token_begin = 40;
  matches[1].n_tokens = 40;
  memset(&options, 0, sizeof(options));
  options.struct_bytes = sizeof(options);
  options.policy = "query:0.05";

  EXPECT(quire_plan(100, matches, 2, &options, &segments, &n_segments) == QUIRE_OK);
  EXPECT(n_segments == 4);
  if (n_segments == 4) {
    EXPECT(segments[0].kind == QUIRE_SEGMENT_PREFIX && segments[0].match_index == 0);
    EXPECT(segments[1].kind == QUIRE_SEGMENT_FRESH && segments[1].match_index == -1);
    EXPECT(segments[2].kind == QUIRE_SEGMENT_CHUNK && segments[2].match_index == 1);
    EXPECT(segments[3].token_begin == 80 && segments[3].n_tokens == 20);
    memset(mass, 0, sizeof(mass));
    mass[33] = 9.0f;
    mass[77] = 2.0f;
    mass[41] = 1.0f;
    EXPECT(quire_select_rows("query:0.05", 100, segments, n_segments, mass, &rows, &n_rows) ==
           QUIRE_OK);
    EXPECT(n_rows == 2 && rows[0] == 41 && rows[1] == 77);
    quire_free(rows);
    EXPECT(quire_select_rows("epic:3", 100, segments, n_segments, NULL, &rows, &n_rows) ==
           QUIRE_OK);
    EXPECT(n_rows == 3 && rows[0] == 40 && rows[2] == 42);
    quire_free(rows);
    EXPECT(quire_select_rows("query:0.05", 100, segments, n_segments, NULL, &rows, &n_rows) ==
           QUIRE_INVALID_ARGUMENT);
    EXPECT(rows == NULL && n_rows == 0);
    segments[3].n_tokens = 19;
    EXPECT(quire_select_rows("reuse", 100, segments, n_segments, NULL, &rows, &n_rows) ==
           QUIRE_INVALID_ARGUMENT);
  }
  quire_free(segments);
  matches[1].struct_bytes = 8;
  EXPECT(quire_plan(100, matches, 2, NULL, &segments, &n_segments) == QUIRE_INVALID_ARGUMENT);
  EXPECT(segments == NULL && n_segments == 0);
  EXPECT(quire_plan(100, NULL, 1, NULL, &segments, &n_segments) == QUIRE_INVALID_ARGUMENT);
  EXPECT(quire_plan(100, NULL, 0, NULL, &segments, &n_segments) == QUIRE_OK);
  EXPECT(n_segments == 1);
  quire_free(segments);
}

int main(void) {
  test_version();
  test_ids();
  test_larger_structs();
  test_no_server();
  test_gpu_without_handles();
  test_plan_and_rows();
  test_rows_after_a_pass();
  test_exact_chunks();
  test_kv();
  if (failures == 0) printf("all passed\n");
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
