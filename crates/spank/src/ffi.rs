//! Slurm's interface for plugins (`slurm/spank.h`), and the only unsafe code.
//!
//! Every function that Slurm calls catches panics: unwinding into C would end
//! slurmstepd, and with it the step.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{FlagError, StepError};
use crate::flags::{FLAGS, Options};
use crate::programs;
use crate::step::{self, AsUser, Facts, Kind, Step, c_text};

/// `spank_t`.
type Handle = *mut c_void;

/// `spank_opt_cb_f`.
type Callback = extern "C" fn(c_int, *const c_char, c_int) -> c_int;

/// `struct spank_option`.
#[repr(C)]
struct SpankOption {
    name: *const c_char,
    arginfo: *const c_char,
    usage: *const c_char,
    has_arg: c_int,
    val: c_int,
    cb: Callback,
}

/// `ESPANK_SUCCESS`.
const SUCCESS: c_int = 0;
/// Anything else, for Slurm.
const FAILURE: c_int = -1;
/// The exit code of sampan's own errors.
const ENGINE_FAILED: c_int = 125;

// `enum spank_item`.
const JOB_UID: c_int = 0;
const JOB_GID: c_int = 1;
const JOB_ID: c_int = 2;
const JOB_STEPID: c_int = 3;
const JOB_LOCAL_TASK_COUNT: c_int = 6;
const JOB_TOTAL_TASK_COUNT: c_int = 7;
const JOB_ARGV: c_int = 9;
const JOB_ENV: c_int = 10;
const TASK_ID: c_int = 11;
const JOB_SUPPLEMENTARY_GIDS: c_int = 19;

// `enum spank_context`.
const CONTEXT_LOCAL: c_int = 1;
const CONTEXT_REMOTE: c_int = 2;
const CONTEXT_ALLOCATOR: c_int = 3;

/// `SLURM_BATCH_SCRIPT` of `slurm.h`.
const BATCH_SCRIPT: u32 = 0xffff_fffb;
/// Steps from here on are Slurm's own (`SLURM_MAX_NORMAL_STEP_ID`).
const FIRST_SPECIAL: u32 = 0xffff_fff0;

unsafe extern "C" {
    fn spank_option_register(handle: Handle, option: *const SpankOption) -> c_int;
    fn spank_context() -> c_int;
    fn spank_get_item(handle: Handle, item: c_int, ...) -> c_int;
    fn slurm_error(format: *const c_char, ...);
    fn slurm_spank_log(format: *const c_char, ...);
}

/// What Slurm's loader asks of a plugin: its name.
#[unsafe(no_mangle)]
pub static plugin_name: [u8; 7] = *b"sampan\0";
/// Its type.
#[unsafe(no_mangle)]
pub static plugin_type: [u8; 6] = *b"spank\0";
/// The version of Slurm that it was built for.
#[unsafe(no_mangle)]
pub static plugin_version: u32 = version(env!("SLURM_VERSION_NUMBER"));
/// Its own version.
#[unsafe(no_mangle)]
pub static spank_plugin_version: u32 = 1;

/// A decimal number that build.rs has written.
const fn version(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let (mut number, mut at) = (0, 0);
    while at < bytes.len() {
        number = number * 10 + (bytes[at] - b'0') as u32;
        at += 1;
    }
    number
}

/// What lives from one hook to the next. slurmstepd's children inherit it.
#[derive(Default)]
struct State {
    options: Options,
    /// `sampan=` of plugstack.conf.
    sampan: Option<PathBuf>,
    step: Option<Step>,
    /// Where the tasks of the node wait for the first one; a byte for each.
    gate: Option<(PipeReader, PipeWriter)>,
    /// How many they are, and then those that have not ended beside the one that ends.
    others: u32,
    /// No task may run: Slurm goes on where the plugin is only `optional`.
    failed: bool,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

fn state() -> MutexGuard<'static, Option<State>> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a hook; its errors go to srun's output, line by line.
fn hook(work: impl FnOnce(&mut State) -> Result<(), StepError>) -> c_int {
    let result = catch_unwind(AssertUnwindSafe(|| work(state().get_or_insert_default())));
    match result {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(error)) => {
            complain(&error.to_string());
            FAILURE
        }
        Err(_) => {
            complain("the plugin has failed: this is a bug of sampan");
            FAILURE
        }
    }
}

fn complain(text: &str) {
    for line in text.lines() {
        let line = c_text(line.strip_prefix("error: ").unwrap_or(line));
        // SAFETY: both are C strings, and the format takes one.
        unsafe { slurm_error(c"sampan: %s".as_ptr(), line.as_ptr()) };
    }
}

fn say(text: &str) {
    let text = c_text(text);
    // SAFETY: both are C strings, and the format takes one.
    unsafe { slurm_spank_log(c"sampan: %s".as_ptr(), text.as_ptr()) };
}

/// The handle of a hook, valid until it returns.
struct Spank(Handle);

impl Spank {
    /// A number of a step.
    fn number(&self, item: c_int, what: &'static str) -> Result<u32, StepError> {
        let mut value = 0u32;
        // SAFETY: the items that are asked for are 32 bits wide (spank.h).
        let code = unsafe { spank_get_item(self.0, item, &raw mut value) };
        if code == SUCCESS { Ok(value) } else { Err(StepError::Slurm(what)) }
    }

    /// Where Slurm keeps the words of the step.
    fn argv(&self) -> Result<(usize, *mut *mut c_char), StepError> {
        let (mut count, mut words): (c_int, *mut *mut c_char) = (0, std::ptr::null_mut());
        // SAFETY: the item takes an int* and a char*** (spank.h).
        let code = unsafe { spank_get_item(self.0, JOB_ARGV, &raw mut count, &raw mut words) };
        match usize::try_from(count) {
            Ok(count) if code == SUCCESS && !words.is_null() => Ok((count, words)),
            _ => Err(StepError::Slurm("its command")),
        }
    }

    /// The words of the command.
    fn words(&self) -> Result<Vec<OsString>, StepError> {
        let (count, words) = self.argv()?;
        // SAFETY: Slurm says that there are as many, and keeps them meanwhile.
        let words = unsafe { std::slice::from_raw_parts(words, count) };
        Ok(words.iter().filter(|word| !word.is_null()).map(|word| text(*word)).collect())
    }

    /// The job's environment.
    fn env(&self) -> Result<Vec<OsString>, StepError> {
        let mut list: *mut *mut c_char = std::ptr::null_mut();
        // SAFETY: the item takes a char*** (spank.h).
        let code = unsafe { spank_get_item(self.0, JOB_ENV, &raw mut list) };
        if code != SUCCESS || list.is_null() {
            return Err(StepError::Slurm("its environment"));
        }
        let mut all = Vec::new();
        // SAFETY: a null pointer ends the array, as it does environ(7).
        unsafe {
            while !(*list).is_null() {
                all.push(text(*list));
                list = list.add(1);
            }
        }
        Ok(all)
    }

    /// None for steps that start no task of the user's.
    fn kind(&self) -> Result<Option<Kind>, StepError> {
        Ok(match self.number(JOB_STEPID, "its number")? {
            BATCH_SCRIPT => Some(Kind::Batch),
            FIRST_SPECIAL.. => None,
            _ => Some(Kind::Srun),
        })
    }

    fn facts(&self, kind: Kind, env: Vec<OsString>) -> Result<Facts, StepError> {
        Ok(Facts {
            kind,
            job: self.number(JOB_ID, "its job")?,
            step: self.number(JOB_STEPID, "its number")?,
            local_tasks: self.number(JOB_LOCAL_TASK_COUNT, "its tasks")?,
            tasks: self.number(JOB_TOTAL_TASK_COUNT, "its tasks")?,
            argv: self.words()?,
            env,
        })
    }

    fn user(&self) -> Result<User, StepError> {
        let (mut list, mut count): (*const libc::gid_t, c_int) = (std::ptr::null(), 0);
        // SAFETY: the item takes a gid_t** and an int* (spank.h).
        let code = unsafe {
            spank_get_item(self.0, JOB_SUPPLEMENTARY_GIDS, &raw mut list, &raw mut count)
        };
        let groups = match usize::try_from(count) {
            Ok(count) if code == SUCCESS && !list.is_null() => {
                // SAFETY: Slurm says that there are as many, and keeps them meanwhile.
                unsafe { std::slice::from_raw_parts(list, count) }.to_vec()
            }
            _ => Vec::new(),
        };
        let (uid, gid) = (self.number(JOB_UID, "its user")?, self.number(JOB_GID, "its group")?);
        Ok(User { uid, gid, groups })
    }

    /// Puts a script in the place of the task's program: its arguments stay.
    ///
    /// Slurm gives no function for that. It starts what the first word of this
    /// very array says (`exec_task` in slurmstepd), after all that it still
    /// has to do; of `--multi-prog` alone each task has another ([`programs`]). Only
    /// this task's process sees the change. That it is so in a version of Slurm,
    /// `tests/slurm` shows.
    ///
    /// The script is in memory, so that nothing has to be removed; whoever
    /// runs it closes its descriptor.
    fn replace_program(&self, script: &[u8]) -> Result<(), StepError> {
        let fd = memory_script(script).map_err(StepError::Task)?;
        self.replace_word(0, c_text(&format!("/proc/self/fd/{fd}")))
    }

    /// Puts another text in the place of a word of the step's command.
    fn replace_word(&self, index: usize, word: CString) -> Result<(), StepError> {
        let (count, words) = self.argv()?;
        if index >= count {
            return Err(StepError::NoProgram);
        }
        // SAFETY: the array has this word.
        unsafe { *words.add(index) = slurms_own(word) };
        Ok(())
    }
}

/// A text that Slurm may free, as it does its own: by its allocator, which slurmstepd and
/// srun export and `slurm.h` does not have. Without it the text lasts to the end of the
/// process, which no known Slurm minds.
fn slurms_own(text: CString) -> *mut c_char {
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"slurm_xstrdup".as_ptr()) };
    if found.is_null() {
        return text.into_raw();
    }
    // SAFETY: xstring.h: `char *xstrdup(const char *str)`, under the name that
    // slurm_xlator.h gives it; it copies the text.
    unsafe {
        let copy: extern "C" fn(*const c_char) -> *mut c_char = std::mem::transmute(found);
        copy(text.as_ptr())
    }
}

/// Opens a script where the programs of `--multi-prog` look for it.
fn place_script(script: &[u8]) -> io::Result<()> {
    let fd = memory_script(script)?;
    // SAFETY: looks at a number, which need not be a descriptor's.
    if unsafe { libc::fcntl(programs::PLACE, libc::F_GETFD) } >= 0 {
        return Err(io::Error::other(format!("descriptor {} is in use", programs::PLACE)));
    }
    // SAFETY: the new number is nobody's; the old one is this function's, and closed once.
    let done = unsafe { libc::dup2(fd, programs::PLACE) >= 0 && libc::close(fd) == 0 };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The descriptor of a file in memory that execve(2) takes by its path under
/// /proc/self/fd: the kernel refuses what is open for writing, and the script's
/// interpreter has to find it open.
fn memory_script(script: &[u8]) -> io::Result<c_int> {
    let create = |flags| {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"sampan-task".as_ptr(), flags) };
        // SAFETY: the descriptor is new, and nobody else's.
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { File::from_raw_fd(fd) }) }
    };
    // Where the site lets memory be executed only when asked for; before
    // Linux 6.3 the flag is not known.
    let mut file = match create(libc::MFD_CLOEXEC | libc::MFD_EXEC) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(libc::MFD_CLOEXEC)?,
        other => other?,
    };
    file.write_all(script)?;
    // SAFETY: the descriptor is open.
    if unsafe { libc::fchmod(file.as_raw_fd(), 0o500) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
    // SAFETY: the path is a C string; the descriptor is new, and without
    // O_CLOEXEC on purpose.
    let readable = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDONLY) };
    if readable < 0 { Err(io::Error::last_os_error()) } else { Ok(readable) }
}

fn text(word: *const c_char) -> OsString {
    // SAFETY: Slurm's words are C strings.
    OsString::from_vec(unsafe { CStr::from_ptr(word) }.to_bytes().to_vec())
}

/// The job's user.
struct User {
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
}

impl AsUser for User {
    /// In `user_init` slurmstepd is the user in effect, with the groups set;
    /// later it is root.
    fn drop_to_user(&self, command: &mut Command) {
        let (uid, gid, groups) = (self.uid, self.gid, self.groups.clone());
        let drop = move || {
            let check = |code: c_int| match code {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            };
            // SAFETY: system calls alone, as it must be after a fork.
            unsafe {
                if libc::geteuid() == 0 {
                    check(libc::setgroups(groups.len(), groups.as_ptr()))?;
                }
                check(libc::setresgid(gid, gid, gid))?;
                check(libc::setresuid(uid, uid, uid))
            }
        };
        // SAFETY: the closure makes system calls only.
        unsafe { command.pre_exec(drop) };
    }
}

/// Takes a flag: called for each one that was given, in every context.
extern "C" fn option_given(index: c_int, value: *const c_char, _remote: c_int) -> c_int {
    hook(|state| {
        let flag = usize::try_from(index).ok().and_then(|index| FLAGS.get(index));
        let value = (!value.is_null()).then(|| text(value).to_string_lossy().into_owned());
        match flag {
            Some(flag) => Ok(state.options.set(flag, value.as_deref())?),
            None => Err(StepError::Slurm("a flag")),
        }
    })
}

fn register(handle: Handle) -> Result<(), StepError> {
    for (index, flag) in FLAGS.iter().enumerate() {
        // Slurm keeps what it is given, or not, by version: these texts stay.
        let option = Box::leak(Box::new(SpankOption {
            name: c_text(flag.name).into_raw(),
            arginfo: flag.argument.map_or(std::ptr::null(), |a| c_text(a).into_raw()),
            usage: c_text(flag.usage).into_raw(),
            has_arg: c_int::from(flag.argument.is_some()),
            val: c_int::try_from(index).unwrap_or(c_int::MAX),
            cb: option_given,
        }));
        // SAFETY: the handle is this hook's, and the option is never freed.
        if unsafe { spank_option_register(handle, option) } != SUCCESS {
            return Err(StepError::Slurm("how to add flags"));
        }
    }
    Ok(())
}

/// `sampan=/PATH`, of the plugin's line in plugstack.conf.
fn arguments(count: c_int, words: *mut *mut c_char) -> Result<Option<PathBuf>, FlagError> {
    let mut sampan = None;
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: Slurm gives as many words as it says.
        let word = text(unsafe { *words.add(at) });
        match word.as_bytes().strip_prefix(b"sampan=") {
            Some(path) if path.starts_with(b"/") => sampan = Some(OsStr::from_bytes(path).into()),
            _ => return Err(FlagError::Argument(word.to_string_lossy().into_owned())),
        }
    }
    Ok(sampan)
}

/// Registers the flags (spank(8)).
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_init(handle: Handle, count: c_int, words: *mut *mut c_char) -> c_int {
    // SAFETY: takes no arguments.
    let context = unsafe { spank_context() };
    if !matches!(context, CONTEXT_LOCAL | CONTEXT_REMOTE | CONTEXT_ALLOCATOR) {
        return SUCCESS;
    }
    hook(|state| {
        state.sampan = arguments(count, words)?;
        register(handle)
    })
}

/// In srun, before it sends the tasks to the nodes: each program of `--multi-prog` gets
/// what makes it one of the container's. What fails here fails on the nodes, which
/// refuse programs without it.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_local_user_init(
    handle: Handle,
    _count: c_int,
    _words: *mut *mut c_char,
) -> c_int {
    let _ = hook(|state| {
        let spank = Spank(handle);
        let mut options = state.options.clone();
        // Here Slurm gives no environment of the job: it is this process's.
        let value = |name: &str| std::env::var(name).ok();
        // A variable that is wrong is told of on the nodes.
        if options.fill(&value).is_err() || options == Options::default() {
            return Ok(());
        }
        let argv = spank.words()?;
        if !programs::are(&argv) || programs::first(&argv).is_some() {
            return Ok(());
        }
        let text = CString::new(programs::wrap(&argv[1])).map_err(|_| StepError::MultiProg)?;
        spank.replace_word(1, text)
    });
    SUCCESS
}

/// Once per node and step, as the user: decides the container.
///
/// Always succeeds: of a step that fails here srun says so and ends with 0,
/// and a batch job would be held. The tasks fail instead, at once.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_user_init(
    handle: Handle,
    _count: c_int,
    _words: *mut *mut c_char,
) -> c_int {
    let _ = hook(|state| {
        let spank = Spank(handle);
        let mut options = state.options.clone();
        // Until all has succeeded: what asks for a container must have it.
        state.failed = options != Options::default();
        let Some(kind) = spank.kind()? else {
            state.failed = false;
            return Ok(());
        };
        let env = spank.env()?;
        // A variable of the session that submits the job means its steps: a
        // script in a container could start none.
        let filled = match kind {
            Kind::Srun => options.fill(&|name| {
                step::variable(&env, name).map(|value| value.to_string_lossy().into_owned())
            }),
            Kind::Batch => Ok(()),
        };
        if filled.is_ok() && options == Options::default() {
            return Ok(());
        }
        state.failed = true;
        filled?;
        let (facts, user) = (spank.facts(kind, env)?, spank.user()?);
        state.others = facts.local_tasks.saturating_sub(1);
        state.step = Step::decide(&options, state.sampan.as_deref(), facts, &user)?;
        state.gate = Some(io::pipe().map_err(StepError::Gate)?);
        state.failed = false;
        Ok(())
    });
    SUCCESS
}

/// In each task's own process, as the user. The first one of the node fetches
/// the image and checks everything, and lets the others pass: they are tasks
/// already, which Slurm can cancel.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_task_init(
    handle: Handle,
    _count: c_int,
    _words: *mut *mut c_char,
) -> c_int {
    let code = hook(|state| {
        if state.failed {
            // srun's output says why.
            end_task();
        }
        let Some(step) = &state.step else { return Ok(()) };
        let (mut enter, mut open) = state.gate.take().ok_or(StepError::Slurm("its tasks"))?;
        let spank = Spank(handle);
        if spank.number(TASK_ID, "its number")? == 0 {
            step.check(&spank.user()?, &say)?;
            open.write_all(&vec![0; state.others as usize]).map_err(StepError::Gate)?;
        } else {
            // It ends without a word when the first task does.
            drop(open);
            if enter.read_exact(&mut [0]).is_err() {
                end_task();
            }
        }
        if step.several() {
            return place_script(&step.script()).map_err(StepError::Task);
        }
        spank.replace_program(&step.script())
    });
    if code != SUCCESS {
        // Where the plugin is `optional`, Slurm would start the task on the node.
        end_task();
    }
    code
}

/// Ends a task that cannot have its container.
fn end_task() -> ! {
    // SAFETY: ends the process; nothing after it runs.
    unsafe { libc::_exit(ENGINE_FAILED) }
}

/// slurmstepd itself must not keep the others waiting for a task that is gone.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_task_post_fork(
    _handle: Handle,
    _count: c_int,
    _words: *mut *mut c_char,
) -> c_int {
    hook(|state| {
        state.gate = None;
        Ok(())
    })
}

/// Saves the container when the last task has ended. The tasks' exit codes are what they
/// were; that there is no file, srun's output says.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_task_exit(
    handle: Handle,
    _count: c_int,
    _words: *mut *mut c_char,
) -> c_int {
    let _ = hook(|state| {
        let Some(step) = &state.step else { return Ok(()) };
        if state.others > 0 {
            state.others -= 1;
            return Ok(());
        }
        let spank = Spank(handle);
        step.save(spank.number(JOB_STEPID, "its number")?, &spank.user()?)
    });
    SUCCESS
}

/// Removes the named containers of a job that has ended. The plugin has no
/// flags here, and no environment of the job's.
#[unsafe(no_mangle)]
pub extern "C" fn slurm_spank_job_epilog(
    handle: Handle,
    count: c_int,
    words: *mut *mut c_char,
) -> c_int {
    // A node must not be drained for what is left in a scratch directory.
    let _ = hook(|_| {
        let spank = Spank(handle);
        let sampan = arguments(count, words)?;
        let (job, uid) = (spank.number(JOB_ID, "its job")?, spank.number(JOB_UID, "its user")?);
        let (user, env) = account(uid)?;
        step::forget(sampan.as_deref(), job, &env, &user)
    });
    SUCCESS
}

/// A user and the variables of a login.
fn account(uid: u32) -> Result<(User, Vec<OsString>), StepError> {
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    let mut buffer = vec![0; 1 << 16];
    let mut found = std::ptr::null_mut();
    // SAFETY: the buffer is as long as said, and all pointers are valid.
    unsafe {
        libc::getpwuid_r(
            uid,
            entry.as_mut_ptr(),
            buffer.as_mut_ptr(),
            buffer.len(),
            &raw mut found,
        );
    }
    if found.is_null() {
        return Err(StepError::Slurm("its user"));
    }
    // SAFETY: the entry was found: it is filled, and its texts are in `buffer`.
    let (gid, home) = unsafe { ((*found).pw_gid, text((*found).pw_dir)) };
    let mut variable = OsString::from("HOME=");
    variable.push(home);
    let env = vec![variable, "PATH=/usr/local/bin:/usr/bin:/bin".into()];
    Ok((User { uid, gid, groups: vec![gid] }, env))
}
