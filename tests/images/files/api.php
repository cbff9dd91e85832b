<?php
// A page that asks another service, and a tool of the image, as web applications do.
echo file_get_contents("http://attacker:8080/version");
echo shell_exec("date -u");
