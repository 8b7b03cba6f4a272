# `cmake --install build/release --prefix P`: the library, its headers and what find_package(weft) reads. Nothing in it names a
# folder of this machine, so that the tree may be moved, and packed for another machine of the same kind.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/weft)

# Users write <weft/weft.h> or <weft/tensor/tensor.h>; the headers themselves say "tensor/tensor.h", from include/weft.
target_include_directories(weft INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>
                                          $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/weft>)
set_target_properties(weft_flags PROPERTIES EXPORT_NAME flags)
install(TARGETS weft weft_flags EXPORT weft ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT weft NAMESPACE weft:: FILE weftTargets.cmake DESTINATION ${package_folder})

foreach(room ${WEFT_ROOMS})
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/${room} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/weft FILES_MATCHING PATTERN "*.h")
endforeach()
install(FILES ${CMAKE_BINARY_DIR}/include/weft/weft.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/weft)
install(FILES ${CMAKE_SOURCE_DIR}/README.md ${CMAKE_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/weftConfig.cmake.in ${CMAKE_BINARY_DIR}/generated/weftConfig.cmake
  INSTALL_DESTINATION ${package_folder} NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/generated/weftConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/generated/weftConfig.cmake ${CMAKE_BINARY_DIR}/generated/weftConfigVersion.cmake
        DESTINATION ${package_folder})
