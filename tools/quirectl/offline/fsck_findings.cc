#include <utility>

#include "tools/quirectl/offline/fsck.h"

namespace quire::ctl {
namespace {

constexpr std::array<FindingText, kFindingKindCount> kTexts = {{
    {"metadata missing", Severity::kDamage,
     "there are segment files but no records: start quired, it rebuilds them from the payloads "
     "(objects in RocksDB, pins and hits are lost)"},
    {"metadata damaged", Severity::kDamage,
     "RocksDB does not open: start quired, it sets the database aside and rebuilds the records "
     "from the segments; or restore meta/ from a backup"},
    {"metadata unreadable", Severity::kDamage, "nothing was looked at behind it"},
    {"upgrade pending", Severity::kNote,
     "written by an earlier version; the next start upgrades it"},
    {"registry missing", Severity::kNote,
     "the copy of tenants, models and verdicts; the next start writes it"},
    {"registry damaged", Severity::kDamage,
     "if the metadata were lost now, tenants' objects would be lost with it; the next start writes "
     "the copy anew"},
    {"registry stale", Severity::kNote, "the next start writes it anew"},
    {"tenant lost", Severity::kDamage,
     "its record is damaged or gone; --repair restores it from the registry copy where that has "
     "it"},
    {"model lost", Severity::kDamage,
     "its record is damaged or gone; --repair restores it from the registry copy where that has "
     "it"},
    {"verdict damaged", Severity::kDamage,
     "--repair restores it from the registry copy; where that does not have it, the model reuses "
     "exact prefixes only until it is measured again"},
    {"record damaged", Severity::kDamage,
     "--repair rebuilds it from the payload's own manifest, or drops it: a miss"},
    {"tokens damaged", Severity::kDamage,
     "--repair rebuilds them from the payload's own manifest, or drops the record: a miss"},
    {"wrong identity", Severity::kDamage,
     "the tokens or the context do not give the ids of the record: it could be found for another "
     "text. The server compares tokens again before it answers; --repair drops it"},
    {"owner unknown", Severity::kDamage,
     "the tenant or model of the record is not registered: the object cannot be found; restore the "
     "registry copy or the tenant's configuration"},
    {"segment file", Severity::kDamage,
     "records name places in a file that is not there or cannot be opened: their objects wait. "
     "Give "
     "it with --nvme, restore it, or start quired without it"},
    {"segment damage", Severity::kDamage, "see the segment file above"},
    {"payload lost", Severity::kDamage,
     "the record's payload is not there or does not hold: a miss; --repair drops the record"},
    {"payload unknown", Severity::kDamage,
     "the record is newer than the segment it names: the segment file is an older copy or another "
     "one. Restore the right one; the record is kept"},
    {"payload overwritten", Severity::kNote,
     "its segment was reclaimed just before the server ended: evicted; the next start, or "
     "--repair, "
     "drops the record"},
    {"payload foreign", Severity::kDamage,
     "the payload holds its checksum but is not the object of its key: --repair drops the record"},
    {"payload orphan", Severity::kNote,
     "no record names it: removed, moved, or never acknowledged; its space is reclaimed"},
    {"blob damaged", Severity::kDamage,
     "a payload in RocksDB does not hold: a miss; --repair drops it with its record"},
    {"blob orphan", Severity::kNote, "no record names it; the next start, or --repair, drops it"},
}};

}  // namespace

const FindingText& finding_text(FindingKind kind) {
  return kTexts[static_cast<size_t>(kind)];
}

void FsckReport::add(FindingKind kind, std::string what, std::optional<Digest> id) {
  ++counts[static_cast<size_t>(kind)];
  if (findings.size() < kFindingsShownMax) findings.push_back({kind, id, std::move(what)});
}

uint64_t FsckReport::damage() const {
  uint64_t sum = 0;
  for (size_t i = 0; i < counts.size(); ++i)
    if (kTexts[i].severity == Severity::kDamage) sum += counts[i];
  return sum;
}

}  // namespace quire::ctl
