# Every list of files is made here by globbing: adding an op, a test or an example edits no table.
set(WEFT_ROOMS tensor kernels autograd nn optim data train)

set(WEFT_SOURCES)
set(umbrella "#pragma once\n// Generated from the public headers of every room.\n")
foreach(room ${WEFT_ROOMS})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${room}/*.cpp)
  list(APPEND WEFT_SOURCES ${sources})
  if(NOT room STREQUAL "kernels")  # kernels are reached through autograd/ and optim/
    file(GLOB headers CONFIGURE_DEPENDS RELATIVE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/${room}/*.h)
    foreach(header ${headers})
      string(APPEND umbrella "#include \"${header}\"\n")
    endforeach()
  endif()
endforeach()

# <weft/weft.h>, and <weft/tensor/tensor.h> and the like through links, in the build tree as in an installed package.
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/include/weft)
foreach(room ${WEFT_ROOMS})
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/${room} ${CMAKE_BINARY_DIR}/include/weft/${room} SYMBOLIC)
endforeach()
file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/include/weft/weft.h CONTENT "${umbrella}")

file(GLOB WEFT_EXAMPLE_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/examples/*.cpp
     ${CMAKE_SOURCE_DIR}/examples/*/main.cpp)
file(GLOB WEFT_TEST_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/*_test.cpp)
file(GLOB WEFT_BENCH_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bench/*_bench.cpp)
