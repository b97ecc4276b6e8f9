//! The control plane: start, stop, clients.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::Config;
use kube::api::Api;

use crate::audit::{AuditLog, Cut};
use crate::connection::{config_from, get};
use crate::folder::Folder;
use crate::launch::Layout;
use crate::process::Process;
use crate::{Error, assets, ports, wait_for};

const ETCD: &str = "etcd";
const API_SERVER: &str = "kube-apiserver";
const CONTROLLER_MANAGER: &str = "kube-controller-manager";

/// Another process may take a port between our choosing it and the program's listening on it.
const START_ATTEMPTS: u32 = 3;
/// How long a program may take to end by itself; the data is thrown away, so not long.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Start kube-controller-manager too, with the garbage collector and the namespace controller only. It learns of
    /// kinds that are defined later within about 30 s; to have it know them at once, install the CRDs first and call
    /// [`ControlPlane::start_controller_manager`] then. Default: no.
    pub controller_manager: bool,
    /// More arguments for kube-apiserver. Default: none.
    pub api_server_arguments: Vec<String>,
    /// How long the start may take. Default: 2 minutes; on two idle cores it takes about 5 seconds.
    pub start_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            controller_manager: false,
            api_server_arguments: Vec::new(),
            start_deadline: Duration::from_secs(120),
        }
    }
}

/// What runs on after [`ControlPlane::leave_running`].
#[derive(Clone, Debug)]
pub struct LeftRunning {
    /// The kubeconfig of the administrator.
    pub admin_kubeconfig: PathBuf,
    /// The folder with all files; to be removed when the programs have been stopped.
    pub folder: PathBuf,
    /// Process ids by program.
    pub pids: BTreeMap<&'static str, u32>,
}

#[derive(Debug, Default)]
struct Programs {
    // In the order in which they are dropped: clients before servers.
    controller_manager: Option<Process>,
    api_server: Option<Process>,
    etcd: Option<Process>,
}

/// A running control plane on loopback ports, in a temporary folder.
///
/// Dropping it stops its programs and removes the folder. Both also happen when the process ends in another way, killed
/// ones included, so a `static` one is fine. Setting `TEST_CONTROL_PLANE_KEEP` keeps the folder.
///
/// Clients belong to the tokio runtime that they were made in: take a new one from here in every test.
#[derive(Debug)]
pub struct ControlPlane {
    programs: Mutex<Programs>,
    options: Options,
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    cut: Arc<Cut>,
    // Last: the folder goes when the programs are gone.
    pub(crate) folder: Folder,
}

impl ControlPlane {
    /// Starts a control plane and waits until it is ready.
    ///
    /// # Errors
    /// When a binary is missing, or a program ends or is not ready in time; the error then has the end of its log.
    pub async fn start(options: Options) -> Result<Self, Error> {
        // There is one provider in the tree, but a process may hold a choice that was made before us.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut attempt = 1;
        loop {
            match Self::try_start(options.clone()).await {
                Err(Error::NotStarted { log, .. })
                    if log.contains("address already in use") && attempt < START_ATTEMPTS =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn try_start(options: Options) -> Result<Self, Error> {
        let folder = Folder::new()?;
        let layout = Layout::write(folder.path(), &ports::free(3)?)?;
        let config = config_from(&layout.admin_kubeconfig).await?;
        let control_plane = Self {
            programs: Mutex::default(),
            cut: Arc::default(),
            options,
            config,
            layout,
            folder,
        };
        let etcd = control_plane.launch(ETCD, control_plane.layout.etcd_arguments())?;
        control_plane.programs().etcd = Some(etcd);
        control_plane.start_api_server().await?;
        control_plane.wait_for_namespaces().await?;
        if control_plane.options.controller_manager {
            control_plane.start_controller_manager().await?;
        }
        Ok(control_plane)
    }

    fn launch(&self, program: &'static str, arguments: Vec<String>) -> Result<Process, Error> {
        Process::start(
            program,
            &assets::binary(program)?,
            arguments,
            &self.layout.log(program),
        )
    }

    fn programs(&self) -> MutexGuard<'_, Programs> {
        // A panic of a test while it holds the lock leaves nothing half done.
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The API server's audit log.
    pub fn audit(&self) -> AuditLog {
        AuditLog::new(
            self.layout.audit_log.clone(),
            self.config.clone(),
            Arc::clone(&self.cut),
        )
    }

    /// Stops the API server as a rollout does; etcd keeps running.
    pub async fn stop_api_server(&self) {
        self.end_api_server(|process| process.stop(PATIENCE)).await;
    }

    /// Kills the API server, as a crash does; etcd keeps running.
    pub async fn kill_api_server(&self) {
        self.end_api_server(Process::kill).await;
    }

    async fn end_api_server(&self, end: impl FnOnce(&mut Process) + Send + 'static) {
        let Some(mut process) = self.programs().api_server.take() else {
            return;
        };
        // It fails only when `end` panics, and then the process is dropped, which ends it too.
        let _ = tokio::task::spawn_blocking(move || end(&mut process)).await;
        self.cut.set_to_the_end_of(&self.layout.audit_log);
    }

    /// Starts the API server again, on the same port and with the same data, and waits until it is ready. Does nothing
    /// when it runs.
    ///
    /// # Errors
    /// When it is not ready in time; the error has the end of its log.
    pub async fn start_api_server(&self) -> Result<(), Error> {
        if self.programs().api_server.is_some() {
            return Ok(());
        }
        let arguments = self
            .layout
            .api_server_arguments(&self.options.api_server_arguments);
        let process = self.launch(API_SERVER, arguments)?;
        self.programs().api_server = Some(process);
        let client = self.admin()?;
        let ready = wait_for(
            "readyz of kube-apiserver",
            self.options.start_deadline,
            || async {
                if let Some(ended) = self.ended() {
                    return Ok(Err(ended));
                }
                match get(&client, "/readyz").await {
                    Ok(_) => Ok(Ok(())),
                    Err(error) => Err(error.to_string()),
                }
            },
        )
        .await;
        let error = match ready {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(timeout) => match self.programs().api_server.as_ref() {
                Some(process) => process.not_started(timeout.to_string()),
                None => timeout,
            },
        };
        drop(self.programs().api_server.take());
        Err(error)
    }

    /// The error of a program that should run and has ended.
    fn ended(&self) -> Option<Error> {
        let mut programs = self.programs();
        let Programs {
            controller_manager,
            api_server,
            etcd,
        } = &mut *programs;
        [etcd, api_server, controller_manager]
            .into_iter()
            .flatten()
            .find_map(|process| {
                let status = process.exit_status()?;
                Some(process.not_started(format!("it ended with {status}")))
            })
    }

    async fn wait_for_namespaces(&self) -> Result<(), Error> {
        let namespaces = Api::<Namespace>::all(self.admin()?);
        for name in ["default", "kube-system"] {
            wait_for(
                &format!("the namespace {name}"),
                self.options.start_deadline,
                || namespaces.get(name),
            )
            .await?;
        }
        Ok(())
    }

    /// [`Self::stop_api_server`] and [`Self::start_api_server`].
    ///
    /// # Errors
    /// When it does not come up again.
    pub async fn restart_api_server(&self) -> Result<(), Error> {
        self.stop_api_server().await;
        self.start_api_server().await
    }

    /// Freezes the API server: connections stay open and nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze_api_server(&self) -> Result<(), Error> {
        self.signal_api_server("STOP")
    }

    /// Lets a frozen API server go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw_api_server(&self) -> Result<(), Error> {
        self.signal_api_server("CONT")
    }

    fn signal_api_server(&self, signal: &str) -> Result<(), Error> {
        match self.programs().api_server.as_mut() {
            Some(process) => process.signal(signal),
            None => Err(Error::NotRunning {
                program: API_SERVER,
                action: format!("send the signal {signal}"),
            }),
        }
    }

    /// Starts kube-controller-manager and waits until its garbage collector works. Does nothing when it runs.
    ///
    /// # Errors
    /// When it ends or does not work in time; the error has the end of its log.
    pub async fn start_controller_manager(&self) -> Result<(), Error> {
        if self.programs().controller_manager.is_some() {
            return Ok(());
        }
        let process = self.launch(CONTROLLER_MANAGER, self.layout.controller_manager_arguments())?;
        self.programs().controller_manager = Some(process);
        let log = self.layout.log(CONTROLLER_MANAGER);
        // It has no answer that says "the garbage collector is synced"; its log has, and the line is written before
        // the first object is looked at.
        wait_for(
            "the garbage collector's start",
            self.options.start_deadline,
            || async {
                if let Some(ended) = self.ended() {
                    return Ok(Err(ended));
                }
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                if text.contains("Proceeding to collect garbage") {
                    Ok(Ok(()))
                } else {
                    Err("not in its log yet")
                }
            },
        )
        .await?
    }

    /// The process ids of what runs, by program: `etcd`, `kube-apiserver`, `kube-controller-manager`.
    pub fn pids(&self) -> BTreeMap<&'static str, u32> {
        let programs = self.programs();
        [&programs.etcd, &programs.api_server, &programs.controller_manager]
            .into_iter()
            .flatten()
            .map(|process| (process.program, process.pid))
            .collect()
    }

    /// Stops everything and removes the folder; what dropping does too.
    pub async fn stop(self) {
        // Blocks until the programs are gone.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// Lets everything run on when our process ends, for a person to look around.
    pub fn leave_running(mut self) -> LeftRunning {
        let pids = self.pids();
        let admin_kubeconfig = self.admin_kubeconfig();
        let mut programs = std::mem::take(&mut *self.programs());
        for process in [
            programs.etcd.take(),
            programs.api_server.take(),
            programs.controller_manager.take(),
        ]
        .into_iter()
        .flatten()
        {
            process.leave_running();
        }
        let folder = self.folder.leave();
        LeftRunning {
            admin_kubeconfig,
            folder,
            pids,
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let mut programs = std::mem::take(&mut *self.programs());
        // Clients before servers: each ends quickly when the one it talks to still answers.
        for process in [
            &mut programs.controller_manager,
            &mut programs.api_server,
            &mut programs.etcd,
        ]
        .into_iter()
        .flatten()
        {
            process.stop(PATIENCE);
        }
    }
}
