# Steps from the stop before a kernel into the kernel, and adds $device(pointer, count): what device memory holds.
set print thread-events off
set pagination off
python
import gdb

class IntoKernel(gdb.Command):
    """Steps until the selected frame is in a .cu file."""
    def __init__(self):
        super().__init__("into_kernel", gdb.COMMAND_RUNNING)
    def invoke(self, argument, from_tty):
        gdb.execute("finish", to_string=True)
        for _ in range(200):
            place = gdb.selected_frame().find_sal()
            if place.symtab and place.symtab.filename.endswith(".cu"):
                break
            gdb.execute("step", to_string=True)
        gdb.execute("frame")

class Device(gdb.Function):
    """$device(pointer, count): the elements behind a device pointer, as an array."""
    def __init__(self):
        super().__init__("device")
    def invoke(self, pointer, count=1):
        host = gdb.parse_and_eval("weft::simt::host_view((const void*)%d)" % int(pointer))
        element = pointer.type.target().unqualified()
        return host.cast(element.pointer()).dereference().cast(element.array(int(count) - 1))

IntoKernel()
Device()
end
