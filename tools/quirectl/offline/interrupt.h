// Ctrl-C as a flag: long reads look at it between objects, so that nothing is left half done and
// what was found so far is printed.
#ifndef QUIRE_TOOLS_QUIRECTL_OFFLINE_INTERRUPT_H_
#define QUIRE_TOOLS_QUIRECTL_OFFLINE_INTERRUPT_H_

namespace quire::ctl {

// From now on SIGINT and SIGTERM set the flag; the second one ends the process as usual.
void catch_interrupts();
bool interrupted();

}  // namespace quire::ctl

#endif  // QUIRE_TOOLS_QUIRECTL_OFFLINE_INTERRUPT_H_
