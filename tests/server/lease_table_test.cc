#include "server/store/lease_table.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "server/store/object.h"

namespace quire::server {
namespace {

constexpr uint32_t kNoLease = UINT32_MAX;

TEST(LeaseTable, IdsAreNeverReused) {
  LeaseTable table;
  ObjectEntry object;
  uint32_t head = kNoLease;
  std::set<uint64_t> seen;
  for (int i = 0; i < 100; ++i) {
    const uint64_t id = *table.grant(&object, 1, &head, 10);
    EXPECT_TRUE(seen.insert(id).second);
    EXPECT_NE(table.find(id, 1), nullptr);
    EXPECT_EQ(table.find(id, 2), nullptr) << "a lease belongs to its session";
    EXPECT_EQ(table.release(id, &head), &object);
    EXPECT_EQ(table.find(id, 1), nullptr);
  }
  EXPECT_EQ(table.find(UINT64_MAX, 1), nullptr);
  EXPECT_EQ(table.live(), 0u);
}

// Against a plain map: grants, releases, renewals, expiries and dying sessions in random order.
TEST(LeaseTable, AgreesWithAModel) {
  std::mt19937_64 random(3);
  LeaseTable table;
  std::vector<ObjectEntry> objects(8);
  std::map<uint32_t, uint32_t> heads;
  struct Model {
    uint32_t session;
    uint64_t expires_ns;
    ObjectEntry* object;
  };
  std::map<uint64_t, Model> model;
  uint64_t now_ns = 0;
  for (int step = 0; step < 20'000; ++step) {
    const uint32_t session = static_cast<uint32_t>(random() % 5);
    uint32_t& head = heads.try_emplace(session, kNoLease).first->second;
    const uint64_t kind = random() % 10;
    if (kind < 5) {
      ObjectEntry* object = &objects[random() % objects.size()];
      const uint64_t expires_ns = now_ns + 1 + random() % 100;
      const uint64_t id = *table.grant(object, session, &head, expires_ns);
      ASSERT_TRUE(model.emplace(id, Model{session, expires_ns, object}).second);
    } else if (kind < 8 && !model.empty()) {
      auto victim = std::next(model.begin(), static_cast<long>(random() % model.size()));
      const auto [id, expected] = *victim;
      Lease* lease = table.find(id, expected.session);
      ASSERT_NE(lease, nullptr);
      if (kind == 7) {
        victim->second.expires_ns = now_ns + 1 + random() % 100;
        table.renew(*lease, victim->second.expires_ns);
      } else {
        EXPECT_EQ(table.release(id, &heads[expected.session]), expected.object);
        model.erase(victim);
      }
    } else if (kind == 8) {
      now_ns += random() % 30;
      table.sweep(now_ns, [&](uint64_t id, const Lease& lease) {
        const auto found = model.find(id);
        ASSERT_NE(found, model.end());
        EXPECT_LE(found->second.expires_ns, now_ns);
        table.release(id, &heads[lease.session]);
        model.erase(found);
      });
      for (const auto& [id, left] : model) ASSERT_GT(left.expires_ns, now_ns);
    } else if (random() % 20 == 0) {
      size_t dropped = 0;
      while (table.release_first(&head) != nullptr) ++dropped;
      EXPECT_EQ(dropped, std::erase_if(model, [&](const auto& entry) {
                  return entry.second.session == session;
                }));
    }
    ASSERT_EQ(table.live(), model.size());
  }
}

}  // namespace
}  // namespace quire::server
