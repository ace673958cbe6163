# CUDA without CMake's CUDA language: nvcc is one custom command per unit, so that any nvcc from 12.8
# on works (also one assembled from Python packages) and never more than two run at once.
#
#   QUIRE_CUDA            AUTO (ON where nvcc >= 12.8 is found), ON (an error where not), OFF
#   quire_cuda_found      set: whether .cu files are compiled by nvcc
#   quire_cuda_objects(OUTPUT variable UNITS a.cu ...)      objects for sm_80, sm_90 and newer
#   quire_on_cpu_library(name UNITS a.cu ...)               the same files for the executor
set(QUIRE_CUDA AUTO CACHE STRING "Build the CUDA kernels: AUTO, ON or OFF")
set_property(CACHE QUIRE_CUDA PROPERTY STRINGS AUTO ON OFF)
set(quire_cuda_found OFF)
set(quire_nvcc_oldest 12.8)

function(quire_find_nvcc)
  if(DEFINED ENV{QUIRE_CACHE})
    set(cache_folder $ENV{QUIRE_CACHE})
  elseif(DEFINED ENV{XDG_CACHE_HOME})
    set(cache_folder $ENV{XDG_CACHE_HOME}/quire)
  else()
    set(cache_folder $ENV{HOME}/.cache/quire)
  endif()
  find_program(QUIRE_NVCC nvcc HINTS /usr/local/cuda/bin ${cache_folder}/cuda/bin)
  if(NOT QUIRE_NVCC)
    return()
  endif()
  execute_process(COMMAND ${QUIRE_NVCC} --version OUTPUT_VARIABLE text ERROR_QUIET)
  if(text MATCHES "release ([0-9]+\\.[0-9]+)")
    set(quire_nvcc_version ${CMAKE_MATCH_1} PARENT_SCOPE)
  endif()
endfunction()

if(NOT QUIRE_CUDA STREQUAL "OFF")
  quire_find_nvcc()
  if(QUIRE_NVCC AND quire_nvcc_version VERSION_GREATER_EQUAL quire_nvcc_oldest)
    set(quire_cuda_found ON)
    # The folder of bin/, include/ and lib64/ or lib/.
    get_filename_component(quire_cuda_root "${QUIRE_NVCC}" REALPATH)
    get_filename_component(quire_cuda_root "${quire_cuda_root}" DIRECTORY)
    get_filename_component(quire_cuda_root "${quire_cuda_root}" DIRECTORY)
    message(STATUS "CUDA kernels: ${QUIRE_NVCC} ${quire_nvcc_version}")
  elseif(QUIRE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "QUIRE_CUDA=ON: no nvcc >= ${quire_nvcc_oldest} (tools/setup.sh --cuda)")
  else()
    message(STATUS "CUDA kernels: no nvcc >= ${quire_nvcc_oldest}, not built")
  endif()
endif()

get_property(pools GLOBAL PROPERTY JOB_POOLS)
if(NOT "quire_nvcc=2" IN_LIST pools)
  set_property(GLOBAL APPEND PROPERTY JOB_POOLS quire_nvcc=2)
endif()
set(quire_nvcc_flags -std=c++20 -O3 --fmad=false -lineinfo -Xcompiler=-fPIC,-Wall,-Wextra
    -Werror=all-warnings --expt-relaxed-constexpr
    -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90,code=sm_90
    -gencode=arch=compute_90,code=compute_90)

function(quire_cuda_objects)
  cmake_parse_arguments(arg "" "OUTPUT" "UNITS" ${ARGN})
  find_program(QUIRE_CCACHE ccache)
  set(launcher "")
  if(QUIRE_CCACHE)
    set(launcher ${QUIRE_CCACHE})
  endif()
  set(objects "")
  foreach(unit ${arg_UNITS})
    get_filename_component(unit_path "${unit}" ABSOLUTE)
    file(RELATIVE_PATH unit_name "${CMAKE_CURRENT_SOURCE_DIR}" "${unit_path}")
    string(REPLACE "/" "_" unit_name "${unit_name}")
    set(object "${CMAKE_CURRENT_BINARY_DIR}/${unit_name}.o")
    add_custom_command(OUTPUT "${object}"
      COMMAND ${launcher} "${QUIRE_NVCC}" ${quire_nvcc_flags} "-I${quire_kernels_root}"
              -MD -MF "${object}.d" -MT "${object}" -c "${unit_path}" -o "${object}"
      DEPENDS "${unit_path}" DEPFILE "${object}.d" JOB_POOL quire_nvcc
      COMMENT "nvcc ${unit_name}" VERBATIM)
    list(APPEND objects "${object}")
  endforeach()
  set(${arg_OUTPUT} ${objects} PARENT_SCOPE)
endfunction()

# The CUDA runtime, linked statically: a program with CUDA kernels starts on machines without CUDA.
function(quire_link_cuda_runtime target)
  find_library(QUIRE_CUDART cudart_static NO_DEFAULT_PATH
    PATHS "${quire_cuda_root}/lib64" "${quire_cuda_root}/lib" "${quire_cuda_root}/targets/x86_64-linux/lib")
  find_package(Threads REQUIRED)
  if(QUIRE_CUDART)
    target_link_libraries(${target} INTERFACE ${QUIRE_CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt)
  endif()
endfunction()

function(quire_on_cpu_library name)
  cmake_parse_arguments(arg "" "" "UNITS" ${ARGN})
  add_library(${name} STATIC EXCLUDE_FROM_ALL ${arg_UNITS})
  set_source_files_properties(${arg_UNITS} PROPERTIES LANGUAGE CXX)
  target_link_libraries(${name} PUBLIC quire_executor)
  target_compile_definitions(${name} PRIVATE QUIRE_ON_CPU=1)
  target_compile_options(${name} PRIVATE -x c++ -Wall -Wextra -Werror -Wno-unknown-pragmas
                         -O2 -ffp-contract=off)
  if(QUIRE_SANITIZE)
    target_compile_options(${name} PRIVATE -fsanitize=${QUIRE_SANITIZE} -fno-omit-frame-pointer)
    target_link_options(${name} INTERFACE -fsanitize=${QUIRE_SANITIZE})
  elseif(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Only the calls: kernels/executor answers them and looks for races on shared memory.
    target_compile_options(${name} PRIVATE -fsanitize=thread)
  endif()
endfunction()
