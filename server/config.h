// Configuration of quired: one TOML file, every key with a default, units in the names. Unknown
// keys and values out of range are errors that say what to write instead.
#ifndef QUIRE_SERVER_CONFIG_H_
#define QUIRE_SERVER_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/status.h"

namespace quire::server {

struct TenantConfig {
  std::string name;
  // Empty: a random salt is made at the first start and kept in the data directory.
  TenantSalt salt;
  // Where given, in force from the next start on; else what quirectl tenant set-quota set.
  std::optional<uint64_t> soft_bytes;  // share that other tenants do not evict
  std::optional<uint64_t> hard_bytes;  // 0 = no limit
};

struct Config {
  std::string data_directory;  // default_data_directory()
  std::string socket_path;     // default_socket_path()
  std::string log_level = "info";

  uint64_t host_bytes = 1ull << 30;  // the smaller of 1 GiB and a quarter of the memory
  bool host_prefault = true;

  std::string nvme_path;             // empty: <data_directory>/nvme.quire
  uint64_t nvme_bytes = 4ull << 30;  // the smaller of 4 GiB and half of the free disk; 0 = no tier
  uint64_t nvme_segment_bytes = 256ull << 20;
  std::vector<std::string> nvme_more_paths;  // further devices, each of nvme_bytes, in this order
  uint64_t nvme_write_bytes_per_day = 0;     // 0 = no budget
  bool nvme_scrub = true;
  uint64_t nvme_scrub_bytes_per_second = 0;  // 0 = 1 % of the measured bandwidth

  uint64_t index_cache_bytes = 128ull << 20;  // tokens and details of objects found lately

  uint64_t rocks_blob_bytes_max = 1ull << 20;  // smaller objects live in RocksDB; 0 = none

  bool gpu_enabled = false;
  std::string gpu_driver = "cuda";  // or "fake": host memory, for tests only
  uint32_t gpu_device = 0;
  uint64_t gpu_pool_bytes = 1ull << 30;   // of device memory, taken as it is needed
  bool gpu_verify_uploads = false;        // read each copy back and compare its checksum
  uint32_t gpu_shrink_after_ms = 60'000;  // of unused memory at the pool's end; 0 = never

  uint32_t lease_default_ms = 30'000;
  uint32_t lease_max_ms = 600'000;
  uint32_t reservation_ms = 30'000;  // a reserved window that is not committed by then is freed

  uint64_t staging_default_bytes = 256ull << 20;
  uint64_t staging_max_bytes = 1ull << 30;

  uint32_t sessions_max = 128;
  uint32_t leases_per_session_max = 16'384;
  uint32_t reservations_per_session_max = 64;

  std::string control_address = "127.0.0.1:7766";  // empty or port 0 = off
  std::string http_address = "127.0.0.1:7767";

  std::vector<TenantConfig> tenants;  // the default tenant "" (no salt) exists always

  // Built-in defaults fitted to this machine (memory, free disk of the data directory's filesystem
  // is applied by fit_to_machine()).
  static Config defaults();
  // Overwrites keys that text sets. origin names the file in messages. nvme.bytes and host.bytes
  // that the text sets are remembered as explicit.
  Status apply_toml(std::string_view text, const std::string& origin);
  // Reads the file and applies it.
  Status apply_file(const std::string& path);
  // Fills paths that depend on others and shrinks non-explicit sizes to what the machine has.
  void fit_to_machine();
  // OK, or the key that is out of range and its range.
  Status validate() const;
  // A complete TOML file that apply_toml() reads back to the same values. Salts are not printed.
  std::string to_toml() const;

  bool host_bytes_explicit = false;
  bool nvme_bytes_explicit = false;
};

// "host:port", "" or ":0" forms; nullopt = off. Used for control_address and http_address.
bool listens(const std::string& address);

}  // namespace quire::server

#endif  // QUIRE_SERVER_CONFIG_H_
