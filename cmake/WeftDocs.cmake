# Every ```cpp block with a main() in the README and in docs/ is compiled as a program and, without sanitizers, run.
file(GLOB documents CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/README.md ${CMAKE_SOURCE_DIR}/docs/*.md
     ${CMAKE_SOURCE_DIR}/docs/guides/*.md)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${documents})
set(folder ${CMAKE_BINARY_DIR}/docs)
file(MAKE_DIRECTORY ${folder})
foreach(document ${documents})
  cmake_path(GET document STEM stem)
  execute_process(
    COMMAND awk -v prefix=${folder}/${stem}_ [[
      /^```cpp/ { inside = 1; text = ""; next }
      /^```/ { if (inside && text ~ /int main\(/) { name = prefix (++n) ".cpp"; printf "%s", text > (name ".new"); print name }
               inside = 0; next }
      inside { text = text $0 "\n" }]]
    ${document} OUTPUT_VARIABLE programs OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE "\n" ";" programs "${programs}")
  foreach(program ${programs})
    configure_file(${program}.new ${program} COPYONLY)  # touches it only when it changed
    cmake_path(GET program STEM name)
    add_executable(doc_${name} ${program})
    target_link_libraries(doc_${name} PRIVATE weft weft_warnings)
    if(NOT WEFT_SANITIZE)
      add_test(NAME docs.${name} COMMAND doc_${name})
    endif()
  endforeach()
endforeach()
