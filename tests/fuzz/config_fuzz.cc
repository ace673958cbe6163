// The configuration: any text ends in a status, and what is valid survives being printed.
#include "server/config.h"
#include "tests/fuzz/fuzz_target.h"

namespace {

using quire::fuzz::expect;
using quire::server::Config;

Config base_config() {
  Config config;
  config.data_directory = "/d";
  config.socket_path = "/s";
  return config;
}

}  // namespace

QUIRE_FUZZ_SEEDS(config) {
  using quire::fuzz::bytes_of_text;
  return {{"defaults", bytes_of_text(base_config().to_toml())},
          {"tenants", bytes_of_text("[host]\nbytes = 67108864\n\n[[tenant]]\nname = \"a\"\nsalt_hex"
                                    " = \"00112233445566778899aabbccddeeff\"\n[[tenant]]\n"
                                    "name = 'b'\n")},
          {"inline_tables", bytes_of_text("nvme = {bytes = 0, segment_bytes = 1_048_576}\n"
                                          "lease.default_ms = 0x3e8 # dotted\n")},
          {"empty", {}}};
}

QUIRE_FUZZ_TARGET(config) {
  Config config = base_config();
  const quire::Status status = config.apply_toml(quire::fuzz::text_of(input), "fuzz.toml");
  if (!status.is_ok()) {
    expect(status.code() == quire::StatusCode::kInvalidArgument, "a bad file is a bad argument");
    expect(!status.message().empty(), "a refusal says why");
    return false;
  }
  if (!config.validate().is_ok()) return false;
  Config again = base_config();
  const std::string printed = config.to_toml();
  expect(again.apply_toml(printed, "printed").is_ok(), "a printed configuration can be read");
  expect(again.to_toml() == printed, "printing and reading changes nothing");
  return true;
}
