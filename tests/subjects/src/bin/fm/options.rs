//! What the command line and the configuration file ask for. The flags are those of well-known miners
//! where one exists, so that argument rules have something to look at.

use serde::Deserialize;
use std::time::Duration;

/// Which protocol to speak to the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proto {
    /// Monero's `login`.
    #[default]
    Monero,
    /// Bitcoin's `mining.subscribe` and `mining.authorize`.
    Btc,
    /// Ethereum's `eth_submitLogin` and `eth_getWork`.
    Eth,
    /// `getblocktemplate` over HTTP, as from a node.
    Daemon,
}

/// Everything `fm` can be told.
#[derive(Debug)]
pub struct Options {
    /// `HOST:PORT` of the pool.
    pub pool: Option<String>,
    /// Wallet.
    pub user: String,
    /// Password.
    pub pass: String,
    /// Configuration file.
    pub config: Option<String>,
    /// Protocol.
    pub proto: Proto,
    /// Speak (the first message of) TLS.
    pub tls: bool,
    /// Name in the ClientHello; the pool's host by default.
    pub sni: Option<String>,
    /// SOCKS5 proxy.
    pub socks: Option<String>,
    /// HTTP CONNECT proxy.
    pub http_proxy: Option<String>,
    /// Connect the way libuv does.
    pub nonblock: bool,
    /// Connect with TCP Fast Open.
    pub fast_open: bool,
    /// Bytes a send.
    pub split: Option<usize>,
    /// Send in one `writev` of eight pieces.
    pub iov: bool,
    /// Use an `AF_INET6` socket.
    pub v6: bool,
    /// Threads that burn CPU.
    pub threads: usize,
    /// Pin each thread to a CPU.
    pub affinity: bool,
    /// Share of the time they burn, percent.
    pub duty: u32,
    /// How long to burn and to hold the connection.
    pub burn: Duration,
    /// Memory to touch, bytes.
    pub memory: usize,
    /// New comm.
    pub name: Option<String>,
    /// Overwrite the argument block.
    pub clobber_argv: bool,
    /// Ask for model specific registers as miners do: load the module, open the device for writing.
    pub msr: bool,
    /// Ask for huge pages.
    pub huge: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pool: None,
            user: "LABWALLET".into(),
            pass: "x".into(),
            config: None,
            proto: Proto::default(),
            tls: false,
            sni: None,
            socks: None,
            http_proxy: None,
            nonblock: false,
            fast_open: false,
            split: None,
            iov: false,
            v6: false,
            threads: 1,
            affinity: false,
            duty: 100,
            burn: Duration::from_secs(5),
            memory: 0,
            name: None,
            clobber_argv: false,
            msr: false,
            huge: false,
        }
    }
}

/// The part of xmrig's `config.json` that is used.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    pools: Vec<Pool>,
}

#[derive(Deserialize)]
struct Pool {
    url: String,
    user: Option<String>,
    pass: Option<String>,
    #[serde(default)]
    tls: bool,
}

impl Options {
    /// Reads the arguments, then the configuration file: the one named, else `config.json` in the
    /// working directory when no pool was named.
    pub fn read(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::parse(args)?;
        if options.pool.is_none() {
            let path = options.config.clone().unwrap_or_else(|| "config.json".into());
            let text = std::fs::read_to_string(&path).map_err(|err| format!("{path}: {err}"))?;
            options.apply_config(&text).map_err(|err| format!("{path}: {err}"))?;
        }
        Ok(options)
    }

    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self::default();
        while let Some(arg) = args.next() {
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
                _ => (arg, None),
            };
            if options.switch(&flag) {
                continue;
            }
            let value = inline.or_else(|| args.next()).ok_or_else(|| format!("{flag}: value missing"))?;
            options.valued(&flag, value)?;
        }
        Ok(options)
    }

    /// A flag without a value; false if it is not one.
    fn switch(&mut self, flag: &str) -> bool {
        match flag {
            "--tls" => self.tls = true,
            "--nonblock" => self.nonblock = true,
            "--tfo" => self.fast_open = true,
            "--iov" => self.iov = true,
            "-6" => self.v6 = true,
            "--affinity" => self.affinity = true,
            "--clobber-argv" => self.clobber_argv = true,
            "--msr" => self.msr = true,
            "--huge" => self.huge = true,
            // A real miner's switches, there to be seen in the arguments.
            "-k" | "--keepalive" | "--nicehash" | "-B" | "--background" | "--no-color" => {}
            _ => return false,
        }
        true
    }

    fn valued(&mut self, flag: &str, value: String) -> Result<(), String> {
        match flag {
            "-o" | "--url" => self.set_url(&value),
            "-u" | "--user" => self.user = value,
            "-p" | "--pass" => self.pass = value,
            "-c" | "--config" => self.config = Some(value),
            "--proto" => self.proto = proto(&value)?,
            "--sni" => self.sni = Some(value),
            "--socks" => self.socks = Some(value),
            "--http-proxy" => self.http_proxy = Some(value),
            "--split" => self.split = Some(number::<usize>(flag, &value)?.max(1)),
            "-t" | "--threads" => self.threads = number::<usize>(flag, &value)?.min(8),
            "--duty" => self.duty = number::<u32>(flag, &value)?.min(100),
            "--burn" => self.burn = Duration::from_secs(number(flag, &value)?),
            "--mem" => self.memory = number::<usize>(flag, value.trim_end_matches('M'))?.min(512) << 20,
            "--name" => self.name = Some(value),
            "--donate-level" | "--cpu-priority" | "-a" | "--algo" | "--coin" | "--rig-id" | "--tls-fingerprint" => {}
            _ => return Err(format!("{flag}: unknown")),
        }
        Ok(())
    }

    fn set_url(&mut self, url: &str) {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        self.tls |= scheme.ends_with("ssl") || scheme.ends_with("tls");
        if scheme.starts_with("daemon") || scheme.starts_with("http") {
            self.proto = Proto::Daemon;
        }
        self.pool = Some(rest.trim_end_matches('/').to_owned());
    }

    fn apply_config(&mut self, text: &str) -> Result<(), String> {
        let config: Config = serde_json::from_str(text).map_err(|err| err.to_string())?;
        let pool = config.pools.into_iter().next().ok_or("no pool")?;
        self.set_url(&pool.url);
        self.tls |= pool.tls;
        self.user = pool.user.unwrap_or_else(|| std::mem::take(&mut self.user));
        self.pass = pool.pass.unwrap_or_else(|| std::mem::take(&mut self.pass));
        Ok(())
    }
}

fn proto(name: &str) -> Result<Proto, String> {
    match name {
        "monero" => Ok(Proto::Monero),
        "btc" => Ok(Proto::Btc),
        "eth" => Ok(Proto::Eth),
        "daemon" => Ok(Proto::Daemon),
        _ => Err(format!("--proto {name}: monero, btc, eth or daemon")),
    }
}

fn number<T: std::str::FromStr>(flag: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{flag} {value}: not a number"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_real_miners_command_line() {
        let options =
            parse("-o stratum+ssl://pool.example:443 -u W --donate-level=0 -k --cpu-priority 5 -t 2").unwrap();
        assert_eq!(options.pool.as_deref(), Some("pool.example:443"));
        assert!(options.tls);
        assert_eq!((options.user.as_str(), options.threads), ("W", 2));
    }

    #[test]
    fn errors_name_the_flag() {
        assert_eq!(parse("--wat 1").unwrap_err(), "--wat: unknown");
        assert_eq!(parse("--burn").unwrap_err(), "--burn: value missing");
        assert_eq!(parse("--burn x").unwrap_err(), "--burn x: not a number");
    }

    #[test]
    fn config_file() {
        let mut options = Options::default();
        options.apply_config(r#"{"autosave":true,"pools":[{"url":"203.0.113.66:3333","user":"U"}]}"#).unwrap();
        assert_eq!(options.pool.as_deref(), Some("203.0.113.66:3333"));
        assert_eq!((options.user.as_str(), options.pass.as_str()), ("U", "x"));
        assert_eq!(options.apply_config(r#"{"pools":[]}"#).unwrap_err(), "no pool");
    }
}
