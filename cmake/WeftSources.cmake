# Every list of files is made here by globbing: adding an op, a test or an example edits no table.
set(WEFT_ROOMS simt tensor kernels autograd nn optim data train)
if(WEFT_SCOPE STREQUAL "memory")
  list(REMOVE_ITEM WEFT_ROOMS train)
elseif(WEFT_SCOPE STREQUAL "threads")
  list(REMOVE_ITEM WEFT_ROOMS nn optim train)
endif()

set(WEFT_SOURCES)
set(umbrella "#pragma once\n// Generated from the public headers of every room.\n")
foreach(room ${WEFT_ROOMS})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${room}/*.cpp)
  list(APPEND WEFT_SOURCES ${sources})
  if(NOT room MATCHES "^(simt|kernels)$")  # reached through tensor/, autograd/ and optim/
    file(GLOB headers CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/${room}/*.h)
    foreach(header ${headers})
      string(APPEND umbrella "#include \"${header}\"\n")
    endforeach()
  endif()
endforeach()

# Every .cu file is compiled twice: by nvcc, and by the host compiler through a generated file that includes it. (Setting the
# source's LANGUAGE property instead would turn both compilations of a folder into C++, silently.)
file(GLOB_RECURSE WEFT_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/*.cu)
foreach(source ${WEFT_CUDA_SOURCES})
  cmake_path(GET source STEM stem)
  cmake_path(RELATIVE_PATH source BASE_DIRECTORY ${CMAKE_SOURCE_DIR} OUTPUT_VARIABLE relative)
  set(twin ${CMAKE_BINARY_DIR}/generated/simt_${stem}.cpp)
  file(CONFIGURE OUTPUT ${twin} CONTENT "#include \"${relative}\"  // IWYU pragma: keep\n" @ONLY)
  list(APPEND WEFT_SOURCES ${twin})
  # Kernels load registers under a condition and use them under the same one, which g++ at -O3 does not follow; the other
  # builds keep the warning.
  set_source_files_properties(${twin} PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:-Wno-maybe-uninitialized>")
endforeach()
# The emulator switches stacks and owns what its threads race for: it is not instrumented, but tells the sanitizers itself.
file(GLOB WEFT_SIMT_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/simt/*.cpp)
if(WEFT_SANITIZE)
  set(options -fno-sanitize=all)
  if("address" IN_LIST WEFT_SANITIZE)
    list(APPEND options -DWEFT_ASAN)
  endif()
  if("thread" IN_LIST WEFT_SANITIZE)
    list(APPEND options -DWEFT_TSAN)
  endif()
  set_source_files_properties(${WEFT_SIMT_SOURCES} PROPERTIES COMPILE_OPTIONS "${options}")
endif()

# Every op with a .cu file, from the declarations WEFT_GPU_OP(op, Args) in the headers of kernels/, for tests that must
# leave none out. A changed header configures again.
# kernels/<stem>_ladder.cu defines <op>_rungs() for some of them; the other ops get an empty list.
set(ops_with_rungs)
set(no_rungs "")
file(GLOB ladders CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/*_ladder.cu)
foreach(ladder ${ladders})
  set_property(DIRECTORY ${CMAKE_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${ladder})
  file(STRINGS ${ladder} defined REGEX "^std::span<const Variant<[A-Za-z0-9_]+>> [a-z0-9_]+_rungs\\(\\) {")
  if(NOT defined)
    message(FATAL_ERROR "${ladder} must define `std::span<const Variant<Args>> <op>_rungs() { ... }`, at the start of a line")
  endif()
  foreach(line ${defined})
    string(REGEX REPLACE "^[^ ]+ [^ ]+ ([a-z0-9_]+)_rungs.*$" "\\1" op "${line}")
    list(APPEND ops_with_rungs ${op})
  endforeach()
endforeach()
file(GLOB kernel_headers CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/kernels/*.h)
set(gpu_ops "// Generated from the headers of kernels/.\n")
set(gpu_op_list "\n#define WEFT_FOR_EACH_GPU_OP(X)")
foreach(header ${kernel_headers})
  set_property(DIRECTORY ${CMAKE_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${header})
  string(APPEND gpu_ops "#include \"${header}\"\n")
  file(STRINGS ${CMAKE_SOURCE_DIR}/${header} declared REGEX "^WEFT_GPU_OP\\(")
  foreach(line ${declared})
    string(REGEX REPLACE "^WEFT_GPU_OP\\(([a-z0-9_]+),.*$" "\\1" op "${line}")
    string(REGEX REPLACE "^WEFT_GPU_OP\\([a-z0-9_]+, *([A-Za-z0-9_]+)\\).*$" "\\1" args "${line}")
    string(APPEND gpu_op_list " X(${op})")
    if(NOT op IN_LIST ops_with_rungs)
      string(APPEND no_rungs "WEFT_NO_RUNGS(${op}, ${args})\n")
    endif()
  endforeach()
endforeach()
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/gpu_ops.h CONTENT "#pragma once\n${gpu_ops}${gpu_op_list}\n" @ONLY)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/no_rungs.cpp @ONLY CONTENT
"${gpu_ops}
#define WEFT_NO_RUNGS(op, Args) \\
  namespace cuda { std::span<const Variant<Args>> op##_rungs() { return {}; } } \\
  namespace simt { std::span<const Variant<Args>> op##_rungs() { return {}; } }
namespace weft::kernels {
${no_rungs}}  // namespace weft::kernels
")
list(APPEND WEFT_SOURCES ${CMAKE_BINARY_DIR}/generated/no_rungs.cpp)

# <weft/weft.h>, and <weft/tensor/tensor.h> and the like through links, in the build tree as in an installed package.
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/include/weft)
foreach(room ${WEFT_ROOMS})
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/${room} ${CMAKE_BINARY_DIR}/include/weft/${room} SYMBOLIC)
endforeach()
file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/include/weft/weft.h CONTENT "${umbrella}")

file(GLOB WEFT_EXAMPLE_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/examples/*.cpp
     ${CMAKE_SOURCE_DIR}/examples/*/main.cpp)
file(GLOB WEFT_TEST_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/*_test.cpp)
list(REMOVE_ITEM WEFT_TEST_SOURCES ${CMAKE_SOURCE_DIR}/tests/ops_test.cpp)  # a program of its own
file(GLOB WEFT_BENCH_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bench/*_bench.cpp)
