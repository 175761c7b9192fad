"""What `edgekit doctor` reads on a device: files, names, lines of files, device nodes, and the few commands.

Sent to the device with collect.py. Standard library, any Python >= 3.6: an old Python is one of the findings.
Reading changes nothing: no command here writes, installs, mounts, or wakes a device up.
"""

# files that are read whole (the first 16 KiB); globs
FILES = (
    "/etc/os-release",
    "/etc/nv_tegra_release",
    "/etc/dphys-swapfile",
    "/etc/ssh/sshd_config",
    "/etc/ssh/sshd_config.d/*.conf",
    "/etc/systemd/system/edgekit-powerd.service",
    "/etc/vulkan/icd.d/*.json",
    "/usr/share/vulkan/icd.d/*.json",
    "/proc/1/comm",
    "/proc/cgroups",
    "/proc/device-tree/compatible",
    "/proc/device-tree/model",
    "/proc/driver/nvidia/version",
    "/proc/meminfo",
    "/proc/mounts",
    "/proc/swaps",
    "/run/systemd/container",
    "/sys/block/*/device/life_time",
    "/sys/block/*/device/pre_eol_info",
    "/sys/block/*/device/type",
    "/sys/bus/pci/devices/*/device",
    "/sys/bus/pci/devices/*/vendor",
    "/sys/bus/usb/devices/*/busnum",
    "/sys/bus/usb/devices/*/devnum",
    "/sys/bus/usb/devices/*/idProduct",
    "/sys/bus/usb/devices/*/idVendor",
    "/sys/bus/usb/devices/*/speed",
    "/sys/class/apex/apex_*/temp",
    "/sys/class/apex/apex_*/trip_point0_temp",
    "/sys/class/drm/renderD*/device/uevent",
    "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/in0_lcrit_alarm",
    "/sys/class/hwmon/hwmon*/oc*_event_cnt",
    "/sys/class/rtc/rtc*/name",
    "/sys/class/rtc/rtc*/since_epoch",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/class/thermal/thermal_zone*/trip_point_*_temp",
    "/sys/class/thermal/thermal_zone*/trip_point_*_type",
    "/sys/class/thermal/thermal_zone*/type",
    "/sys/devices/platform/soc*/*firmware/get_throttled",
    "/sys/devices/platform/soc*/*/*firmware/get_throttled",
    "/sys/devices/system/cpu/cpufreq/policy*/cpuinfo_max_freq",
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_available_governors",
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_driver",
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
    "/sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/present",
    "/sys/fs/cgroup/cgroup.controllers",
    "/sys/fs/ext4/*/errors_count",
)

# big-endian numbers of the firmware: read as hexadecimal digits
BINARY = ("/proc/device-tree/chosen/power/*",)

# what is there, by name alone
NAMES = (
    "/run/edgekit-powerd/powerd.sock",
    "/.dockerenv",
    "/boot/firmware/cmdline.txt",
    "/run/.containerenv",
    "/dev/apex_*",
    "/dev/dri/*",
    "/dev/nvhost-ctrl-gpu",
    "/dev/nvidia*",
    "/lib/modules/*/build",
    "/lib/modules/*/updates/dkms/apex.ko*",
    "/run/user/*/systemd/private",
    "/usr/bin/python3.*",
    "/usr/lib/*/libedgetpu.so*",
    "/usr/lib/libedgetpu.so*",
    "/usr/local/lib/libedgetpu.so*",
    "/usr/lib/*/libvulkan.so*",
    "/usr/lib/libvulkan.so*",
    "/usr/lib64/libvulkan.so*",
    "/usr/local/bin/python3.*",
    "/var/lib/systemd/linger/*",
)

# (glob, regular expression): only the lines that match
LINES = tuple(
    (folder + "/*.rules", r"1a6e|18d1")
    for folder in ("/etc/udev/rules.d", "/lib/udev/rules.d", "/usr/lib/udev/rules.d")
)

# whose node it is, and what we may do with it
NODES = (
    "/dev/apex_*",
    "/dev/dri/renderD*",
    "/dev/vcio",
    "/dev/vcio_gencmd",
)

PROGRAMS = (
    "apt-get",
    "dkms",
    "raspi-config",
    "ssh-keygen",
    "systemctl",
    "udevadm",
)

PACKAGES = (
    "dbus-user-session",
    "gasket-dkms",
    "libedgetpu1-max",
    "libedgetpu1-std",
    "libpam-systemd",
)

# kernel messages that mean something here
KERNEL_LOG = (
    r"[Uu]nder-?voltage|over-?current|OC ALARM|"
    r"mmc(blk)?\d+: (error|recovery failed|Card stuck|Timeout)|I/O error|EXT4-fs (error|warning)|"
    r"Remounting filesystem read-only|Out of memory|oom-kill|apex|gasket|USB disconnect|reset (Super|high-)[Ss]peed"
)

# name -> (argument list, seconds, wanted lines or None for all)
COMMANDS = {
    "get_throttled": (["vcgencmd", "get_throttled"], 20, None),
    "nvpmodel": (["nvpmodel", "-q"], 30, None),
    "packages": (
        ["dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture} ${db:Status-Abbrev}\\n", *PACKAGES],
        30,
        None,
    ),
    # dpkg --audit wants root's lock; these states are what it would tell of
    "broken_packages": (
        ["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package} ${Version}\\n"],
        30,
        r"^(.[UFHWt]|..R)",
    ),
    "timedatectl": (["timedatectl", "show", "-p", "NTP", "-p", "CanNTP", "-p", "NTPSynchronized"], 30, None),
    "user_manager": (["systemctl", "--user", "is-system-running"], 30, None),
    "failed_units": (["systemctl", "--failed", "--no-legend", "--plain", "--no-pager"], 30, None),
    "ssh_version": (["ssh", "-V"], 20, None),
    "sshd": (["sshd", "-T"], 30, r"^(maxstartups|permitrootlogin|passwordauthentication|pubkeyauthentication|port) "),
    "kernel_log": (["dmesg"], 30, KERNEL_LOG),
    # the same for the group adm, where dmesg is root's
    "kernel_journal": (["journalctl", "-k", "-b", "-o", "cat", "--no-pager"], 30, KERNEL_LOG),
}
