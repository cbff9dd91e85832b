<?php
// A page that runs one of a few fixed commands: the shape of a web shell.
$commands = ["id" => "id; uname -a", "mark" => "touch /tmp/pwned"];
echo shell_exec($commands[$_GET["c"] ?? "id"] ?? "true");
