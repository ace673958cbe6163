/* What the files of this C11 program share. */
#ifndef QUIRE_TESTS_CLIENT_CAPI_CAPI_TEST_H_
#define QUIRE_TESTS_CLIENT_CAPI_CAPI_TEST_H_

#include <stdio.h>

#include "quire.h"

extern int failures;

#define EXPECT(condition)                                             \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                     \
    }                                                                 \
  } while (0)

void test_kv(void);

#endif /* QUIRE_TESTS_CLIENT_CAPI_CAPI_TEST_H_ */
