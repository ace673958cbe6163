#include "server/config.h"

// Some damaged files trip an assertion of the TOML parser; that is an error like any other.
namespace quire::server::detail {
[[noreturn]] void throw_not_toml();
}
#define TOML_ASSERT(expression) \
  ((expression) ? static_cast<void>(0) : quire::server::detail::throw_not_toml())

#include <spdlog/fmt/fmt.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <stdexcept>

#include "base/paths.h"
#include "codecs/representation.h"
#include "proto/wire.h"
#include "server/store/tenants.h"
#include "tiers/nvme/device_array.h"

void quire::server::detail::throw_not_toml() {
  throw std::invalid_argument("not TOML");
}

namespace quire::server {
namespace {

constexpr uint64_t kMiB = 1ull << 20;
constexpr uint64_t kGiB = 1ull << 30;
constexpr uint64_t kConfigFileBytesMax = 1 * kMiB;
constexpr size_t kSaltBytesMin = 16;

// One row per key: how it is read, printed and which values it takes.
struct Key {
  std::string_view name;                                       // dotted
  std::function<std::string(Config&, const toml::node&)> set;  // empty, or what is wrong
  std::function<std::string(const Config&)> print;
  std::string_view comment;
};

template <typename T>
Key number(std::string_view name, T Config::*field, uint64_t low, uint64_t high,
           std::string_view comment, bool Config::*marker = nullptr) {
  return {name,
          [=](Config& config, const toml::node& node) -> std::string {
            const auto value = node.value_exact<int64_t>();
            const std::string range = fmt::format("a whole number from {} to {}", low, high);
            if (!value || *value < 0) return range;
            if (static_cast<uint64_t>(*value) < low || static_cast<uint64_t>(*value) > high) {
              return range;
            }
            config.*field = static_cast<T>(*value);
            if (marker != nullptr) config.*marker = true;
            return {};
          },
          [=](const Config& config) { return std::to_string(config.*field); }, comment};
}

std::string quoted(const std::string& text) {
  std::ostringstream out;
  out << toml::value<std::string>(text);
  return out.str();
}

Key text(std::string_view name, std::string Config::*field, std::string_view comment) {
  return {name,
          [=](Config& config, const toml::node& node) -> std::string {
            const auto value = node.value_exact<std::string>();
            if (!value) return "a text in quotes";
            config.*field = *value;
            return {};
          },
          [=](const Config& config) { return quoted(config.*field); }, comment};
}

Key boolean(std::string_view name, bool Config::*field, std::string_view comment) {
  return {name,
          [=](Config& config, const toml::node& node) -> std::string {
            const auto value = node.value_exact<bool>();
            if (!value) return "true or false";
            config.*field = *value;
            return {};
          },
          [=](const Config& config) { return config.*field ? "true" : "false"; }, comment};
}

Key text_list(std::string_view name, std::vector<std::string> Config::*field, size_t count_max,
              std::string_view comment) {
  return {name,
          [=](Config& config, const toml::node& node) -> std::string {
            const std::string wanted = fmt::format("at most {} texts in [...]", count_max);
            const toml::array* list = node.as_array();
            if (list == nullptr || list->size() > count_max) return wanted;
            std::vector<std::string> values;
            for (const toml::node& element : *list) {
              const auto value = element.value_exact<std::string>();
              if (!value || value->empty()) return wanted;
              values.push_back(*value);
            }
            config.*field = std::move(values);
            return {};
          },
          [=](const Config& config) {
            std::string out = "[";
            for (const std::string& value : config.*field) {
              if (out.size() > 1) out += ", ";
              out += quoted(value);
            }
            return out + "]";
          },
          comment};
}

const std::vector<Key>& keys() {
  static const std::vector<Key> table = {
      text("data_directory", &Config::data_directory, "where everything durable lives"),
      text("socket_path", &Config::socket_path, "unix socket of the data plane"),
      text("log_level", &Config::log_level, "trace, debug, info, warn, error"),
      number("host.bytes", &Config::host_bytes, 8 * kMiB, 1ull << 44, "memory for stored KV",
             &Config::host_bytes_explicit),
      boolean("host.prefault", &Config::host_prefault, "touch that memory at start"),
      text("nvme.path", &Config::nvme_path, "file or raw device; empty = in the data directory"),
      number("nvme.bytes", &Config::nvme_bytes, 0, 1ull << 50, "0 = no NVMe tier",
             &Config::nvme_bytes_explicit),
      number("nvme.segment_bytes", &Config::nvme_segment_bytes, 1 * kMiB, 1 * kGiB,
             "an object is never larger than a segment"),
      text_list("nvme.more_paths", &Config::nvme_more_paths, kNvmeDevicesMax - 1,
                "further devices, each of nvme.bytes; never change the order"),
      number("nvme.write_bytes_per_day", &Config::nvme_write_bytes_per_day, 0, 1ull << 50,
             "0 = no budget; beyond it only durable puts and what is used again are written"),
      boolean("nvme.scrub", &Config::nvme_scrub, "re-read stored objects in the background"),
      number("nvme.scrub_bytes_per_second", &Config::nvme_scrub_bytes_per_second, 0, 1ull << 36,
             "0 = 1 % of the measured bandwidth"),
      number("index.cache_bytes", &Config::index_cache_bytes, 1 * kMiB, 1ull << 40,
             "tokens and details of objects found lately"),
      number("rocks.blob_bytes_max", &Config::rocks_blob_bytes_max, 0, 16 * kMiB,
             "smaller objects live in RocksDB; 0 = none"),
      number("lease.default_ms", &Config::lease_default_ms, 100, 3'600'000,
             "how long a lease lasts unless renewed"),
      number("lease.max_ms", &Config::lease_max_ms, 100, 86'400'000, "longer wishes are cut"),
      number("lease.reservation_ms", &Config::reservation_ms, 100, 3'600'000,
             "a reserved window that is not committed by then is freed"),
      number("session.staging_default_bytes", &Config::staging_default_bytes, 8 * kMiB, 64 * kGiB,
             "write window of a client that does not ask"),
      number("session.staging_max_bytes", &Config::staging_max_bytes, 8 * kMiB, 64 * kGiB,
             "larger wishes are cut"),
      number("session.sessions_max", &Config::sessions_max, 1, 16'384, "clients at a time"),
      number("session.leases_max", &Config::leases_per_session_max, 1, 1'000'000, "per client"),
      number("session.reservations_max", &Config::reservations_per_session_max, 1, 4096,
             "per client"),
      text("control.listen", &Config::control_address, "gRPC, host:port; \"\" or port 0 = off"),
      text("http.listen", &Config::http_address, "/metrics and /healthz; \"\" or port 0 = off"),
  };
  return table;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string nearest_key(std::string_view name) {
  std::string best;
  size_t best_distance = SIZE_MAX;
  for (const Key& key : keys()) {
    // A right last word in a wrong table counts as near.
    const std::string_view last = key.name.substr(key.name.rfind('.') + 1);
    const size_t distance = std::min(edit_distance(name, key.name), edit_distance(name, last) + 1);
    if (distance < best_distance) {
      best_distance = distance;
      best = key.name;
    }
  }
  return best;
}

Status config_error(const std::string& origin, const toml::node& node, const std::string& what) {
  return Status(StatusCode::kInvalidArgument,
                fmt::format("{}, line {}: {}", origin, node.source().begin.line, what));
}

Expected<TenantSalt> parse_salt(const std::string& hex) {
  TenantSalt salt;
  if (hex.size() % 2 != 0) return Status(StatusCode::kInvalidArgument, "");
  for (size_t i = 0; i < hex.size(); i += 2) {
    const std::string pair = hex.substr(i, 2);
    if (pair.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
      return Status(StatusCode::kInvalidArgument, "");
    }
    salt.push_back(static_cast<std::byte>(std::stoul(pair, nullptr, 16)));
  }
  if (salt.size() < kSaltBytesMin || salt.size() > wire::kSaltBytesMax) {
    return Status(StatusCode::kInvalidArgument, "");
  }
  return salt;
}

Status parse_tenants(const toml::node& node, const std::string& origin,
                     std::vector<TenantConfig>& tenants) {
  const toml::array* list = node.as_array();
  if (list == nullptr) return config_error(origin, node, "write tenants as [[tenant]]");
  tenants.clear();
  for (const toml::node& element : *list) {
    const toml::table* table = element.as_table();
    if (table == nullptr) return config_error(origin, element, "write tenants as [[tenant]]");
    TenantConfig tenant;
    for (const auto& [key, value] : *table) {
      const auto string = value.value_exact<std::string>();
      if (key.str() == "name" && string) {
        tenant.name = *string;
      } else if (key.str() == "salt_hex" && string) {
        auto salt = parse_salt(*string);
        if (!salt) {
          return config_error(origin, value, "salt_hex takes 32 to 128 hexadecimal digits");
        }
        tenant.salt = std::move(*salt);
      } else if (const auto bytes = value.value_exact<int64_t>();
                 bytes && *bytes >= 0 && (key.str() == "soft_bytes" || key.str() == "hard_bytes")) {
        (key.str() == "soft_bytes" ? tenant.soft_bytes : tenant.hard_bytes) =
            static_cast<uint64_t>(*bytes);
      } else {
        return config_error(origin, value,
                            fmt::format("\"{}\" in [[tenant]]: only name = \"...\", salt_hex = "
                                        "\"...\", soft_bytes = n and hard_bytes = n belong there",
                                        std::string(key.str())));
      }
    }
    tenants.push_back(std::move(tenant));
  }
  return Status::ok();
}

Status apply_table(Config& config, const toml::table& table, const std::string& prefix,
                   const std::string& origin) {
  for (const auto& [key, node] : table) {
    const std::string name = prefix + std::string(key.str());
    if (name == "tenant") {
      QUIRE_RETURN_IF_ERROR(parse_tenants(node, origin, config.tenants));
      continue;
    }
    const auto row = std::find_if(keys().begin(), keys().end(),
                                  [&](const Key& candidate) { return candidate.name == name; });
    if (row != keys().end()) {
      if (const std::string wanted = row->set(config, node); !wanted.empty()) {
        return config_error(origin, node, fmt::format("{} takes {}", name, wanted));
      }
      continue;
    }
    const bool is_section = std::any_of(keys().begin(), keys().end(), [&](const Key& candidate) {
      return candidate.name.starts_with(name + ".");
    });
    if (!is_section || !node.is_table()) {
      return config_error(
          origin, node,
          fmt::format("unknown key \"{}\"; the nearest one is \"{}\"", name, nearest_key(name)));
    }
    QUIRE_RETURN_IF_ERROR(apply_table(config, *node.as_table(), name + ".", origin));
  }
  return Status::ok();
}

uint64_t machine_memory_bytes() {
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  const long page_bytes = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && page_bytes > 0 ? uint64_t(pages) * uint64_t(page_bytes) : kGiB;
}

// Free bytes of the filesystem that will hold path (nearest existing parent).
uint64_t free_disk_bytes(std::filesystem::path path) {
  struct statvfs info {};
  while (!path.empty()) {
    if (::statvfs(path.c_str(), &info) == 0) return uint64_t(info.f_bavail) * info.f_frsize;
    const auto parent = path.parent_path();
    if (parent == path) break;
    path = parent;
  }
  return 0;
}

}  // namespace

bool listens(const std::string& address) {
  return !address.empty() && !address.ends_with(":0");
}

Config Config::defaults() {
  Config config;
  config.data_directory = default_data_directory();
  config.socket_path = default_socket_path();
  return config;
}

Status Config::apply_toml(std::string_view source, const std::string& origin) {
  try {
    const toml::table table = toml::parse(source, origin);
    return apply_table(*this, table, "", origin);
  } catch (const std::invalid_argument& error) {
    return Status(StatusCode::kInvalidArgument, origin + ": " + error.what());
  } catch (const toml::parse_error& error) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("{}, line {}: {}", origin, error.source().begin.line,
                              std::string(error.description())));
  }
}

Status Config::apply_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return Status(StatusCode::kInvalidArgument, "cannot read the configuration file " + path);
  }
  std::string content(kConfigFileBytesMax + 1, '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  content.resize(static_cast<size_t>(file.gcount()));
  if (content.size() > kConfigFileBytesMax) {
    return Status(StatusCode::kInvalidArgument,
                  path + " is larger than 1 MiB: not a configuration");
  }
  return apply_toml(content, path);
}

void Config::fit_to_machine() {
  if (nvme_path.empty()) nvme_path = data_directory + "/nvme.quire";
  if (!host_bytes_explicit) {
    host_bytes = std::clamp<uint64_t>(machine_memory_bytes() / 4 / kMiB * kMiB, 64 * kMiB, kGiB);
  }
  std::error_code error;
  const uint64_t existing = std::filesystem::is_regular_file(nvme_path, error)
                                ? uint64_t(std::filesystem::file_size(nvme_path, error))
                                : 0;
  if (!nvme_bytes_explicit && existing != 0) {
    nvme_bytes = existing;  // what an earlier start chose
  } else if (!nvme_bytes_explicit) {
    nvme_bytes = std::min(nvme_bytes, free_disk_bytes(nvme_path) / 2 / kMiB * kMiB);
  }
}

Status Config::validate() const {
  const auto wrong = [](const std::string& text) {
    return Status(StatusCode::kInvalidArgument, text);
  };
  static constexpr std::array<std::string_view, 5> kLevels = {"trace", "debug", "info", "warn",
                                                              "error"};
  if (std::find(kLevels.begin(), kLevels.end(), log_level) == kLevels.end()) {
    return wrong("log_level takes trace, debug, info, warn or error, not \"" + log_level + "\"");
  }
  if (data_directory.empty()) return wrong("data_directory must not be empty");
  if (socket_path.empty() || socket_path.size() >= 108) {
    return wrong("socket_path must have 1 to 107 characters (a limit of unix sockets): " +
                 socket_path);
  }
  std::set<std::string> paths{nvme_path};
  for (const std::string& path : nvme_more_paths) {
    if (!paths.insert(path).second) return wrong("nvme.more_paths names " + path + " twice");
  }
  if (lease_default_ms > lease_max_ms) return wrong("lease.default_ms is above lease.max_ms");
  if (staging_default_bytes > staging_max_bytes) {
    return wrong("session.staging_default_bytes is above session.staging_max_bytes");
  }
  std::set<std::string> names{""};
  std::set<TenantSalt> salts;
  for (const TenantConfig& tenant : tenants) {
    if (tenant.name.size() >= wire::kNameBytesMax) {
      return wrong("tenant name \"" + tenant.name + "\" is longer than 63 bytes");
    }
    if (!names.insert(tenant.name).second) {
      return wrong("tenant \"" + tenant.name + "\" appears twice (\"\" is the default tenant)");
    }
    if (const Status status =
            Tenants::check_quota(tenant.soft_bytes.value_or(0), tenant.hard_bytes.value_or(0));
        !status.is_ok()) {
      return wrong("tenant \"" + tenant.name + "\": " + status.message());
    }
    if (!tenant.salt.empty() && !salts.insert(tenant.salt).second) {
      return wrong("tenant \"" + tenant.name + "\" has the salt of another tenant");
    }
  }
  return Status::ok();
}

std::string Config::to_toml() const {
  std::string out;
  std::string section;
  Config printed = *this;
  // A default that follows the data directory is not pinned by printing it.
  if (nvme_path == data_directory + "/nvme.quire") printed.nvme_path.clear();
  for (const Key& key : keys()) {
    const size_t dot = key.name.find('.');
    const std::string table(dot == std::string_view::npos ? "" : key.name.substr(0, dot));
    if (table != section) {
      out += fmt::format("\n[{}]\n", table);
      section = table;
    }
    const std::string_view last =
        dot == std::string_view::npos ? key.name : key.name.substr(dot + 1);
    out += fmt::format("{} = {}  # {}\n", last, key.print(printed), key.comment);
  }
  for (const TenantConfig& tenant : tenants) {
    out += fmt::format("\n[[tenant]]\nname = {}\n", quoted(tenant.name));
    if (tenant.soft_bytes) out += fmt::format("soft_bytes = {}\n", *tenant.soft_bytes);
    if (tenant.hard_bytes) out += fmt::format("hard_bytes = {}\n", *tenant.hard_bytes);
  }
  return out;
}

}  // namespace quire::server
