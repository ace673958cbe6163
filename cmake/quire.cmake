# Shared build rules: warnings and sanitizers for our own code, one way to declare a library,
# a program and a test.
find_package(Threads REQUIRED)
find_program(QUIRE_CCACHE ccache)
if(QUIRE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${QUIRE_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${QUIRE_CCACHE})
endif()

add_library(quire_options INTERFACE)
target_include_directories(quire_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(quire_options INTERFACE -Wall -Wextra -Werror)
target_link_libraries(quire_options INTERFACE Threads::Threads)
if(QUIRE_SANITIZE)
  # gcc 12 takes what the sanitizers add to std::function and std::regex for uninitialized.
  target_compile_options(quire_options INTERFACE -fsanitize=${QUIRE_SANITIZE} -fno-omit-frame-pointer
                         -Wno-maybe-uninitialized)
  target_link_options(quire_options INTERFACE -fsanitize=${QUIRE_SANITIZE})
endif()
# What the tests run with: any report fails the test.
set(quire_test_environment "")
if(QUIRE_SANITIZE MATCHES "thread")
  list(APPEND quire_test_environment
       "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/tsan.supp:second_deadlock_stack=1")
endif()
if(QUIRE_SANITIZE MATCHES "undefined")
  list(APPEND quire_test_environment "UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1")
endif()

# quire_library(NAME SOURCES a.cc b.cc DEPS lib ...): a static library of our code.
function(quire_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${arg_SOURCES})
  target_link_libraries(${name} PUBLIC quire_options ${arg_DEPS})
endfunction()

# quire_program(NAME SOURCES ... DEPS ...): a program in build/<preset>/bin.
function(quire_program name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE quire_options ${arg_DEPS})
endfunction()

# quire_test(NAME SOURCES ... DEPS ... [LABELS unit|server|model|crash] [TIMEOUT s] [WORKING_DIRECTORY d]):
# a GoogleTest program, run as one ctest entry. Labels select what the sanitizer builds run ("unit").
function(quire_test name)
  cmake_parse_arguments(arg "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE quire_options ${arg_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE QUIRE_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                             QUIRE_BIN_DIR="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  # Ends what hangs. A loaded machine with a slow disk takes ten times as long as a quiet one, and the
  # sanitizers as much again.
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 600)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT}
                       ENVIRONMENT "${quire_test_environment}")
endfunction()
