#include "base/paths.h"
#include "tools/quirectl/command_line.h"

namespace quire::ctl {
namespace {

void add_store_options(CLI::App* command, Arguments& arguments) {
  command
      ->add_option("--data", arguments.offline.data_directory,
                   "Data directory of the stopped quired")
      ->default_str(default_data_directory());
  command
      ->add_option("--nvme", arguments.offline.nvme_paths,
                   "Segment file or device; else nvme*.quire of the data directory")
      ->expected(1, -1)
      ->allow_extra_args(false);
}

template <typename Run>
std::function<void()> sets(Arguments& arguments, Action& action, Run run) {
  return [&arguments, &action, run] {
    action = [&arguments, run] {
      arguments.offline.json = arguments.global.json;
      return run(arguments.offline);
    };
  };
}

}  // namespace

void add_offline_commands(CLI::App& app, Arguments& arguments, Action& action) {
  auto* seg = add_command(app, "seg", "Look into the segment files of a stopped quired",
                          "  quirectl seg ls\n  quirectl seg verify --data /var/lib/quire");
  seg->require_subcommand(1);
  auto* ls = add_command(*seg, "ls", "List segments: state, generation, objects, what is live",
                         "  quirectl seg ls --data /var/lib/quire\n"
                         "  quirectl seg ls --nvme /dev/nvme0n1 -o json");
  add_store_options(ls, arguments);
  ls->callback(sets(arguments, action, run_seg_ls));

  auto* dump = add_command(*seg, "dump", "Show the header, objects and footer of segments",
                           "  quirectl seg dump --segment 3\n  quirectl seg dump -o json");
  add_store_options(dump, arguments);
  dump->add_option("--segment", arguments.offline.segment, "This one only");
  dump->callback(sets(arguments, action, run_seg_dump));

  auto* verify = add_command(
      *seg, "verify", "Read everything and prove every checksum; 4 where damage is found",
      "  quirectl seg verify\n  quirectl seg verify --nvme nvme.quire -o json");
  add_store_options(verify, arguments);
  verify->callback(sets(arguments, action, run_seg_verify));

  auto* fsck = add_command(app, "fsck", "Check a whole data directory; 4 where damage is found",
                           "  quirectl fsck\n  quirectl fsck --data /var/lib/quire -o json\n"
                           "  quirectl fsck --data /var/lib/quire --repair");
  add_store_options(fsck, arguments);
  fsck->add_flag("--repair", arguments.offline.repair,
                 "Drop records without payload and rebuild what payloads and copies still tell");
  fsck->callback(sets(arguments, action, run_fsck));
}

}  // namespace quire::ctl
