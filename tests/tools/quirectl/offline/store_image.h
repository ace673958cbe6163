// A small, whole data directory for the tests of fsck: objects of two tenants in sealed and open
// segments and in RocksDB.
#ifndef QUIRE_TESTS_TOOLS_QUIRECTL_OFFLINE_STORE_IMAGE_H_
#define QUIRE_TESTS_TOOLS_QUIRECTL_OFFLINE_STORE_IMAGE_H_

#include <memory>
#include <string>
#include <vector>

#include "tests/codecs/representation_fixture.h"
#include "tests/tools/quirectl/offline/segment_image.h"
#include "tiers/rocks/registry_file.h"
#include "tiers/rocks/rocks_store.h"

namespace quire {

class StoreImage {
 public:
  struct Object {
    Digest id;
    RepresentationHeader header;
    std::vector<std::byte> payload;
    uint32_t segment = 0;
    uint64_t offset = 0;  // of its header in the segment
  };

  // Two objects of the default tenant and one of "acme" in sealed segment 0, one of each in open
  // segment 1, one in RocksDB.
  StoreImage() {
    acme_.name = "acme";
    acme_.salt.assign(32, std::byte{7});
    model_.name = "tiny";
    model_.descriptor = testing::tiny_model().encode();
    {
      auto store = open();
      tiers::MetadataBatch batch;
      batch.put_tenants.emplace_back(1, acme_);
      batch.put_models.emplace_back(model_id(testing::tiny_model()), model_);
      segments.open_segment(0, 0x10);
      objects.push_back(add_nvme(batch, 20, 0));
      objects.push_back(add_nvme(batch, 21, 0));
      objects.push_back(add_nvme(batch, 22, 1));
      segments.seal();
      segments.open_segment(1, 0x11);
      objects.push_back(add_nvme(batch, 23, 0));
      objects.push_back(add_nvme(batch, 24, 1));
      small = make(25, 0);
      auto record = record_of(small, 0);
      record.location = tiers::PayloadLocation::kRocks;
      batch.put_representations.emplace_back(small.id, record);
      batch.put_tokens.emplace_back(small.id, tiers::TokensRecord{small.header.tokens});
      batch.put_blobs.emplace_back(small.id, small.payload);
      EXPECT_TRUE(store->write(batch, true).is_ok());
      EXPECT_TRUE(store->close().is_ok());
    }
    tiers::Registry registry;
    registry.tenants.emplace_back(1, acme_);
    registry.models.emplace_back(model_id(testing::tiny_model()), model_);
    EXPECT_TRUE(tiers::write_registry(directory() + "/registry.quire", registry).is_ok());
    save();
  }

  const std::string& directory() const { return temporary_.path(); }
  std::string nvme_path() const { return directory() + "/nvme.quire"; }
  void save() const { segments.save(nvme_path()); }
  std::unique_ptr<tiers::RocksStore> open() const {
    auto store = tiers::RocksStore::open(directory() + "/meta");
    EXPECT_TRUE(store.is_ok()) << store.status().to_string();
    return std::move(*store);
  }
  void write(const std::function<void(tiers::MetadataBatch&)>& changes) const {
    tiers::MetadataBatch batch;
    changes(batch);
    auto store = open();
    EXPECT_TRUE(store->write(batch, true).is_ok());
    EXPECT_TRUE(store->close().is_ok());
  }
  static std::string key_text(const Digest& id) { return {id.bytes.begin(), id.bytes.end()}; }

  Object make(uint32_t n_tokens, uint32_t tenant) const {
    Object object;
    object.header = testing::tiny_header(CodecId::kRawF16, n_tokens);
    fill_ids(object.header, tenant == 0 ? ByteSpan() : ByteSpan(acme_.salt));
    object.id = object.header.representation;
    object.payload = testing::tiny_representation(object.header);
    return object;
  }
  tiers::RepresentationRecord record_of(const Object& object, uint32_t tenant) const {
    tiers::RepresentationRecord record;
    record.variant = object.header.variant;
    record.object = object.header.object;
    record.model = object.header.model;
    record.tenant = tenant;
    record.n_tokens = static_cast<uint32_t>(object.header.tokens.size());
    record.codec = static_cast<uint16_t>(object.header.codec);
    record.frame = object.header.frame;
    record.coverage = object.header.coverage;
    record.bytes = object.payload.size();
    record.checksum = xxh3_128(object.payload);
    return record;
  }
  Object add_nvme(tiers::MetadataBatch& batch, uint32_t n_tokens, uint32_t tenant) {
    Object object = make(n_tokens, tenant);
    object.segment = segments.segment();
    object.offset = segments.add(object.id, object.payload);
    auto record = record_of(object, tenant);
    record.location = tiers::PayloadLocation::kNvme;
    record.nvme = {object.segment, segments.generation(), object.offset, object.payload.size(),
                   segments.sequence()};
    batch.put_representations.emplace_back(object.id, record);
    batch.put_tokens.emplace_back(object.id, tiers::TokensRecord{object.header.tokens});
    return object;
  }

  SegmentImage segments;
  std::vector<Object> objects;  // in NVMe: 0, 1, 2 sealed; 3, 4 open
  Object small;                 // in RocksDB

 private:
  TemporaryDirectory temporary_;
  tiers::TenantRecord acme_;
  tiers::ModelRecord model_;
};

}  // namespace quire

#endif  // QUIRE_TESTS_TOOLS_QUIRECTL_OFFLINE_STORE_IMAGE_H_
