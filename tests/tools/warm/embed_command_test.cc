#include "tools/quire-warm/embed_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace quire::warm {
namespace {

using testing::HasSubstr;

class EmbedCommandTest : public testing::Test {
 protected:
  Expected<Embeddings> embed(const std::string& command, uint64_t n_texts = 2,
                             uint32_t timeout_seconds = 10) {
    const std::vector<std::string> texts(n_texts, "some text");
    return EmbedCommand({command, timeout_seconds}, stop_).embed(texts);
  }
  // Answers with these lines and reads nothing.
  Expected<Embeddings> say(const std::string& lines, uint64_t n_texts = 2) {
    return embed("cat <<'END'\n" + lines + "\nEND", n_texts);
  }

  std::atomic<bool> stop_{false};
};

TEST_F(EmbedCommandTest, VectorsComeInAnyOrderAndGetLengthOne) {
  const auto found =
      say("{\"id\":\"1\",\"vector\":[0,2]}\n\n{\"id\": \"0\", \"vector\": [3, 4.0]}");
  ASSERT_TRUE(found.is_ok()) << found.status().to_string();
  EXPECT_EQ(found->dims, 2u);
  ASSERT_EQ(found->size(), 2u);
  EXPECT_FLOAT_EQ(found->of(0)[0], 0.6F);
  EXPECT_FLOAT_EQ(found->of(0)[1], 0.8F);
  EXPECT_FLOAT_EQ(found->of(1)[1], 1.0F);
  EXPECT_EQ(say("{\"id\":\"0\",\"vector\":[0,0]}", 1)->of(0)[0], 0.0F);
}

TEST_F(EmbedCommandTest, TextsArriveWhileAnswersAreRead) {
  // More than a pipe holds in both directions; an answer for each line read.
  const std::string command =
      R"(i=0; while IFS= read -r line; do printf '{"id": "%d", "vector": [1, %d]}%065536d\n' $i $i 0 | )"
      R"(sed 's/}.*$/}/'; i=$((i + 1)); done)";
  std::vector<std::string> texts(40, std::string(8192, 'x'));
  const auto found = EmbedCommand({command, 30}, stop_).embed(texts);
  ASSERT_TRUE(found.is_ok()) << found.status().to_string();
  EXPECT_EQ(found->size(), 40u);
  EXPECT_GT(found->of(39)[1], found->of(1)[1]);
}

TEST_F(EmbedCommandTest, TheRequestLineIsJson) {
  EXPECT_EQ(embed_request_line(7, "a \"b\"\n"), "{\"id\":\"7\",\"text\":\"a \\\"b\\\"\\n\"}\n");
  EXPECT_THAT(embed_request_line(0, "caf\xE9"), HasSubstr("\xEF\xBF\xBD"));
}

TEST_F(EmbedCommandTest, BadAnswersAreTypedErrors) {
  const auto expect = [&](const std::string& lines, StatusCode code, const std::string& text) {
    const auto found = say(lines);
    ASSERT_FALSE(found.is_ok()) << lines;
    EXPECT_EQ(found.status().code(), code) << lines;
    EXPECT_THAT(found.status().message(), HasSubstr(text)) << lines;
  };
  const std::string first = "{\"id\":\"0\",\"vector\":[1,2]}\n";
  expect(first, StatusCode::kCorrupt, "1 of 2 texts; the first without a vector is id 1");
  expect(first + first, StatusCode::kCorrupt, "id 0 twice");
  expect(first + "{\"id\":\"2\",\"vector\":[1,2]}", StatusCode::kCorrupt, "not asked for: '2'");
  expect(first + "{\"id\":\"01\",\"vector\":[1,2]}", StatusCode::kCorrupt, "not asked for");
  expect(first + "{\"id\":\"-1\",\"vector\":[1,2]}", StatusCode::kCorrupt, "not asked for");
  expect(first + "{\"id\":\"1\",\"vector\":[1]}", StatusCode::kCorrupt, "of 2 and of 1 numbers");
  expect(first + "{\"id\":\"1\",\"vector\":[]}", StatusCode::kCorrupt, "of 0 numbers");
  expect(first + "{\"id\":\"1\",\"vector\":[NaN,1]}", StatusCode::kCorrupt, "no JSON object");
  expect(first + "{\"id\":\"1\",\"vector\":[null,1]}", StatusCode::kNonFinite, "id 1");
  expect(first + "{\"id\":\"1\",\"vector\":[1e39,1]}", StatusCode::kNonFinite, "id 1");
  expect(first + "{\"id\":\"1\",\"vector\":[\"a\",1]}", StatusCode::kNonFinite, "id 1");
  expect(first + "{\"id\":1,\"vector\":[1,1]}", StatusCode::kCorrupt, "\"id\" (a string)");
  expect(first + "{\"id\":\"1\"}", StatusCode::kCorrupt, "\"vector\" (a list)");
  expect("hello", StatusCode::kCorrupt, "no JSON object");
  expect("", StatusCode::kCorrupt, "0 of 2 texts");
}

TEST_F(EmbedCommandTest, ACommandThatFailsIsQuoted) {
  auto found = embed("echo 'no such model' >&2; exit 3");
  EXPECT_EQ(found.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(found.status().message(), HasSubstr("status 3; it says: no such model"));
  found = embed("/no/such/program");
  EXPECT_EQ(found.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(found.status().message(), HasSubstr("status 127"));
  found = embed("kill -9 $$");
  EXPECT_THAT(found.status().message(), HasSubstr("status 137"));
}

TEST_F(EmbedCommandTest, OutputIsBounded) {
  const auto found = embed("head -c 2000000 /dev/zero; cat > /dev/null");
  EXPECT_EQ(found.status().code(), StatusCode::kResourceExhausted);
  const auto loud = embed("head -c 200000 /dev/zero | tr '\\0' 'e' >&2; exit 1");
  EXPECT_LT(loud.status().message().size(), kEmbedErrorBytesMax + 500);
}

TEST_F(EmbedCommandTest, SilenceEndsByTheTimeout) {
  const auto found = embed("cat > /dev/null; sleep 100 & wait", 1, 1);
  EXPECT_EQ(found.status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(found.status().message(), HasSubstr("--embed-timeout"));
}

TEST_F(EmbedCommandTest, BlankLinesAreNoAnswers) {
  const auto found = embed("cat > /dev/null; while echo; do sleep 0.1; done", 1, 1);
  EXPECT_EQ(found.status().code(), StatusCode::kDeadlineExceeded);
}

TEST_F(EmbedCommandTest, StopEndsIt) {
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    stop_ = true;
  });
  const auto found = embed("sleep 100", 1, 60);
  stopper.join();
  EXPECT_EQ(found.status().code(), StatusCode::kCancelled);
}

TEST_F(EmbedCommandTest, DamagedLinesNeverPass) {
  const std::string line = "{\"id\":\"0\",\"vector\":[0.25,-2]}";
  for (size_t size = 0; size < line.size(); ++size) {
    VectorCollector vectors(1);
    (void)vectors.take_line(line.substr(0, size));
    EXPECT_FALSE(vectors.complete()) << size;
    EXPECT_FALSE(vectors.finish().is_ok());
  }
  for (size_t at = 0; at < line.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = line;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      VectorCollector vectors(1);
      if (!vectors.take_line(damaged).is_ok()) continue;
      if (const auto found = vectors.finish()) {
        for (const float value : found->values) EXPECT_TRUE(std::isfinite(value)) << damaged;
      }
    }
}

}  // namespace
}  // namespace quire::warm
