# Tells Doxygen how comments are written here; every line stays on its line.
#   int a;  // text         documents a
#   /// text                documents the declarations below it, each on one line, up to a blank line or another comment
# Doxygen does not find the class that a specialisation for fmt belongs to: nothing to read there.
/^struct fmt::formatter/ { hidden = 1 }
hidden { hidden = !/^};/; next_is_special = 0; print ""; next }
/^template <>$/ { next_is_special = 1; print ""; next }
{
  line = (next_is_special ? "template <> " : "") $0
  next_is_special = 0
  if (line ~ /^ *\/\/\//) {
    if (!in_block) { block = ""; in_block = 1 }
    text = line
    sub(/^ *\/\/\/ ?/, "", text)
    block = block " " text
    declared = 0
    print line
    next
  }
  in_block = 0
  if (line ~ /^ *$/ || line ~ /^ *(\/\/|#|namespace|public:|private:|protected:|template)/ || line !~ /^ *[^ ].*[;}]( *\/\/.*)?$/ || line ~ /^ *}/) {
    if (line !~ /^ *template/) { block = ""; declared = 0 }
    print line
    next
  }
  match(line, /^ */)
  indent = RLENGTH
  if (line ~ /[;}] +\/\/ /) {  # its own comment
    sub(/[;}] +\/\/ /, "&<", line)
    sub(/\/\/ </, "///< ", line)
    block = ""
  } else if (block != "" && declared && indent == last_indent) {
    gsub(/\*\//, "* /", block)
    line = substr(line, 1, indent) "/**" block " */ " substr(line, indent + 1)
  }
  declared = 1
  last_indent = indent
  print line
}
