# into_kernel: from the stop before a kernel, steps until a .cu file is reached.
set print thread-events off
set pagination off
python
import gdb

class IntoKernel(gdb.Command):
    """Steps until the selected frame is in a .cu file."""
    def __init__(self):
        super().__init__("into_kernel", gdb.COMMAND_RUNNING)
    def invoke(self, argument, from_tty):
        if not gdb.selected_inferior().pid:
            print("No launch of this case has that block and thread: choose smaller ones, or a larger --shape.")
            gdb.execute("quit 1")
        for quiet in ("file /dev/null", "redirect on", "enabled on"):
            gdb.execute("set logging " + quiet, to_string=True)
        gdb.execute("finish", to_string=True)
        for _ in range(200):
            place = gdb.selected_frame().find_sal()
            if place.symtab and place.symtab.filename.endswith(".cu"):
                break
            gdb.execute("step", to_string=True)
        gdb.execute("set logging enabled off", to_string=True)
        gdb.execute("frame")

IntoKernel()
end
