// The neutral text of the variant fixed_prefix_filler: about 200 tokens between system prefix and
// chunk while the chunk is computed, dropped afterwards. In measurements such text halved the
// distance of a reused chunk to one computed in place. Never change it: it is part of the variant's
// identity.
#ifndef QUIRE_TOOLS_QUIRE_WARM_FILLER_H_
#define QUIRE_TOOLS_QUIRE_WARM_FILLER_H_

#include <string_view>

namespace quire::warm {

inline constexpr std::string_view kFillerText =
    "The following pages were collected from several sources and are given here one after another. "
    "They do not depend on each other, and their order has no meaning. Some of them are parts of "
    "longer works, so a page may begin or end in the middle of an argument. Headings, lists and "
    "examples were kept where they help the reader; pictures, menus and advertisements were left "
    "out. Names, numbers and commands are printed exactly as their authors wrote them. Where two "
    "pages seem to disagree, they may speak about different versions of the same thing, or about "
    "different situations. Most pages describe how something works, what it is made of, or how it "
    "is used from day to day. A reader who looks for one particular fact will usually find it in a "
    "single page, while a question about causes or comparisons may need two or three of them. "
    "Nothing in this introduction is an answer to a question. The first page begins after this "
    "paragraph.\n\n";

}  // namespace quire::warm

#endif  // QUIRE_TOOLS_QUIRE_WARM_FILLER_H_
