#include "server/store/staging_window.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <random>

#include "proto/wire.h"

namespace quire::server {
namespace {

TEST(StagingWindow, CannotBeResizedByAClient) {
  auto window = StagingWindow::create(16 << 20);
  ASSERT_TRUE(window.is_ok());
  EXPECT_NE(::ftruncate((*window)->fd(), 4096), 0);
  EXPECT_NE(::ftruncate((*window)->fd(), 32 << 20), 0);
}

TEST(StagingWindow, RangesAreDisjointAndBehindTheScratch) {
  auto created = StagingWindow::create(16 << 20);
  StagingWindow& window = **created;
  std::mt19937_64 random(9);
  std::map<uint64_t, uint64_t> taken;
  for (int step = 0; step < 5000; ++step) {
    if (random() % 2 == 0 || taken.empty()) {
      const uint64_t bytes = 1 + random() % (2 << 20);
      const auto offset = window.allocate(bytes);
      if (!offset) {
        ASSERT_EQ(offset.status().code(), StatusCode::kBusy);
        continue;
      }
      ASSERT_GE(*offset, wire::kPromptScratchBytes);
      ASSERT_LE(*offset + bytes, window.bytes());
      ASSERT_EQ(*offset % 64, 0u);
      const auto next = taken.lower_bound(*offset);
      if (next != taken.end()) {
        ASSERT_LE(*offset + bytes, next->first);
      }
      if (next != taken.begin()) {
        const auto& [before, size] = *std::prev(next);
        ASSERT_LE(before + size, *offset);
      }
      taken[*offset] = bytes;
    } else {
      const auto victim = std::next(taken.begin(), static_cast<long>(random() % taken.size()));
      window.free(victim->first);
      taken.erase(victim);
    }
  }
  for (const auto& [offset, bytes] : taken) window.free(offset);
  EXPECT_TRUE(window.allocate(window.reservable_bytes()).is_ok());
}

TEST(StagingWindow, WhatNeverFitsIsNotBusy) {
  auto window = StagingWindow::create(8 << 20);
  EXPECT_EQ((*window)->allocate(5 << 20).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ((*window)->allocate(UINT64_MAX - 4095).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ((*window)->allocate(0).status().code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace quire::server
